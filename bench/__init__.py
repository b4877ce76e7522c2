"""Benchmarks: the product beside its peers, on the embedded stack. `make bench`, or `python -m bench`."""
