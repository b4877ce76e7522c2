"""Any business with a simple REST API: request, confirm, change, cancel, as `openapi.json` beside this file says."""
