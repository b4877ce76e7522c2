"""Microsoft Graph: an Outlook calendar."""
