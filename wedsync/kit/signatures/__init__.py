"""Verify inbound webhooks, one module a scheme; `table.SCHEMES` names them all."""
