"""`python -m wedsync`: the same as the command `wedsync`."""

from wedsync.cli.main import main

main()
