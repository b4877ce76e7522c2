"""Vonage (formerly Nexmo): text messages by the SMS API."""
