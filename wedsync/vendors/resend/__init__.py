"""Resend: email with idempotency keys."""
