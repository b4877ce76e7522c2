"""HoneyBook has no public API (Zapier triggers and actions are none), so a person does its steps by hand."""
