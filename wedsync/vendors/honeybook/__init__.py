"""HoneyBook has no public API (its Zapier triggers and actions are no API of ours), so a person does its steps by
hand."""
