"""HoneyBook: has no public API (its Zapier triggers and actions are no API of ours); what it holds is done by hand."""
