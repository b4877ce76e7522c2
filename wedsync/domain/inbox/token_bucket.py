"""Token bucket: so many at once (burst), so many a second on average (rate). Pure."""

from __future__ import annotations

from wedsync.domain.value import Value


class Limit(Value):
    """`burst` tokens fit; `per_second` flow in."""

    per_second: float
    burst: float


class Bucket(Value):
    """Tokens left at a moment of a monotonic clock (seconds)."""

    tokens: float
    at: float


def acquire(bucket: Bucket | None, limit: Limit, now: float) -> tuple[Bucket, float]:
    """Take one token: return the bucket afterwards and 0.0, or the same bucket and the seconds until there is one."""
    if bucket is None:
        bucket = Bucket(tokens=limit.burst, at=now)
    tokens = min(limit.burst, bucket.tokens + max(0.0, now - bucket.at) * limit.per_second)
    if tokens >= 1.0:
        return Bucket(tokens=tokens - 1.0, at=now), 0.0
    return Bucket(tokens=tokens, at=now), (1.0 - tokens) / limit.per_second
