"""Sign links for what a vendor has no API for."""

from __future__ import annotations

from datetime import datetime

from pydantic import JsonValue

from wedsync.kit.crypto import sign_link
from wedsync.kit.settings import Settings
from wedsync.usecases.weddings.prepare_steps import Links


def link_maker(settings: Settings) -> Links:
    """`links(payload, expires_at)`: return the URL at which a vendor, or a person for it, answers."""
    base = settings.api_url.rstrip("/")
    secret = settings.link_secret.get_secret_value()

    def make(payload: dict[str, JsonValue], expires_at: datetime) -> str:
        return f"{base}/api/v1/vendor-links/{sign_link(payload, secret, expires_at)}"

    return make
