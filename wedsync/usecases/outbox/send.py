"""Make one attempt at a delivery."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from wedsync.domain.errors import WedsyncError
from wedsync.domain.inbox.clean import clean_text
from wedsync.domain.outbox.signing import body_of, headers_of
from wedsync.domain.outbox.subscription import DeliveryAttempt
from wedsync.domain.ssrf import SsrfPolicy
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.http_guard import Reply, SsrfSafeHttp
from wedsync.kit.settings import Settings
from wedsync.store.outbox.deliveries import Claimed
from wedsync.usecases.outbox.secrets import active, unseal

#: Connecting, sending and the answer, all together.
TIMEOUT_SECONDS = 15.0
#: What could not even be tried is due again after so long.
PUT_OFF = timedelta(seconds=5)
#: So much of an answer is kept.
KEEP_BYTES = 2048

_log = logs.get(__name__)


class AttemptSender:
    """Sends to subscribers' endpoints."""

    def __init__(self, http: SsrfSafeHttp, keyring: Keyring, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._http = http
        self._keyring = keyring
        self._timeout_seconds = timeout_seconds

    async def send(self, claimed: Claimed, at: datetime) -> DeliveryAttempt | None:
        """Sign and post a delivery once; `at` is when, by the clock of whoever decides about it. Never raises.

        None: nothing was tried, for want of a resolver; the delivery is to be given back.
        """
        try:
            reply = await self._post(claimed)
            return None if reply.is_put_off else _attempt(claimed, reply, at)
        except Exception as error:  # noqa: BLE001
            # Whatever it was: an attempt that nobody records would be made again and again.
            _log.exception("delivery_broken", delivery_id=claimed.id)
            reply = Reply(status=None, duration_ms=0, error=f"it can't be sent ({type(error).__name__})")
            return _attempt(claimed, reply, at)

    async def _post(self, claimed: Claimed) -> Reply:
        event = claimed.event
        try:
            held = unseal(self._keyring, event.organization_id, claimed.subscription_id, claimed.sealed_secrets)
        except WedsyncError as error:
            return Reply(status=None, duration_ms=0, error=f"the signing secret can't be read ({error.reason})")
        # The receiver checks the signature's time: it is the wall clock's, whatever the caller's clock says.
        now = utc_now()
        body = body_of(event, claimed.payload, claimed.api_version)
        signing = [item.secret for item in active(held, now)]
        return await self._http.post(
            claimed.url,
            headers=headers_of(event.id, claimed.id, body, signing, now),
            body=body,
            timeout_seconds=self._timeout_seconds,
            keep_bytes=KEEP_BYTES,
            owner=event.organization_id,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()


def ssrf_policy(settings: Settings) -> SsrfPolicy:
    """Return the policy for URLs: this machine's own pass only on a laptop, and only while the setting says so."""
    return SsrfPolicy(allow_loopback=settings.is_local and settings.webhooks_to_loopback)


def _attempt(claimed: Claimed, reply: Reply, at: datetime) -> DeliveryAttempt:
    error = reply.error
    if error is None and not (reply.status is not None and 200 <= reply.status < 300):
        error = f"answered {reply.status}"
    return DeliveryAttempt(
        delivery_id=claimed.id,
        subscription_id=claimed.subscription_id,
        at=at,
        duration_ms=reply.duration_ms,
        status=reply.status,
        response=clean_text(reply.body.decode("utf-8", "replace")),
        error=error,
        retry_after=_retry_after(reply.headers, at),
    )


def _retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Read `Retry-After` (RFC 9110, section 10.2.3): seconds or a date; None when there is none that can be read."""
    declared = headers.get("retry-after", "").strip()
    if declared.isascii() and declared.isdigit():
        return timedelta(seconds=min(int(declared[:10]), 10**6))
    try:
        until = parsedate_to_datetime(declared)
        return max(timedelta(), (until if until.tzinfo else until.replace(tzinfo=UTC)) - now)
    except (ValueError, OverflowError, TypeError):
        # A zone of a billion hours is one of them.
        return None
