"""Name each webhook scheme in one table: how messages are verified, and how handshakes are answered.

Every verification compares in constant time, over the exact bytes, against several active secrets, within the scheme's
replay window, and answers False to malformed input: none raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from wedsync.domain.inbox.source import HmacOptions
from wedsync.kit import standard_webhooks
from wedsync.kit.signatures import handshakes, hmac_sha256, tokens
from wedsync.kit.signatures.handshakes import Handshake
from wedsync.kit.signatures.hmac_sha256 import GITHUB, META, SLACK, ZOOM
from wedsync.vendors.sendgrid import signature as sendgrid_signature
from wedsync.vendors.stripe import signature as stripe_signature
from wedsync.vendors.twilio import signature as twilio_signature
from wedsync.vendors.vonage import signature as vonage_signature

Verify = Callable[[bytes, Mapping[str, str], str, Sequence[str], datetime], bool]


class Scheme(NamedTuple):
    """One scheme: how its messages are verified, and how its handshake is answered."""

    verify: Verify
    handshake: Handshake | None = None
    #: The handshake is answered only when the message is authentic.
    is_handshake_signed: bool = False


def hmac_scheme(options: HmacOptions) -> Verify:
    """Return the verification of an HMAC-SHA256 that is written as `options` say."""

    def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
        return hmac_sha256.verify(body, headers, secrets, now, options)

    return verify


def _standard(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    return standard_webhooks.verify(body, headers, secrets, now)


#: The built-in ones by HMAC-SHA256: none covers a header but a time.
HMAC_SCHEMES = {"github": GITHUB, "meta": META, "slack": SLACK, "zoom": ZOOM}
#: Those whose headers hold an id that is signed with the body.
STANDARD_SCHEMES = ("resend", "standard_webhooks", "svix")
#: By name. `paypal` is not here: its certificates have to be fetched (`wedsync.vendors.paypal`); `hmac_sha256` has
#: options of its own.
SCHEMES: dict[str, Scheme] = {
    "stripe": Scheme(stripe_signature.verify),
    "twilio": Scheme(twilio_signature.verify),
    "sendgrid": Scheme(sendgrid_signature.verify),
    "resend": Scheme(_standard),
    "standard_webhooks": Scheme(_standard),
    "svix": Scheme(_standard),
    "slack": Scheme(hmac_scheme(SLACK), handshakes.slack, is_handshake_signed=True),
    "zoom": Scheme(hmac_scheme(ZOOM), handshakes.zoom, is_handshake_signed=True),
    "github": Scheme(hmac_scheme(GITHUB)),
    "meta": Scheme(hmac_scheme(META), handshakes.meta),
    "vonage": Scheme(vonage_signature.verify),
    "google_calendar": Scheme(tokens.google_channel),
    "microsoft_graph": Scheme(tokens.graph_client_state, handshakes.graph),
    "vsco": Scheme(tokens.in_url),
    "zapier": Scheme(tokens.zapier),
    "hmac_sha256": Scheme(hmac_scheme(HmacOptions())),
}
