"""PayPal: payments."""
