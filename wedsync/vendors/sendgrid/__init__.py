"""Twilio SendGrid: email that can be neither replayed nor looked up."""
