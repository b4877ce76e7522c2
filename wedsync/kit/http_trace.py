"""Trace one HTTP request to a vendor.

By OpenTelemetry's conventions for HTTP clients, but for the URL: its query is left out, since some vendors want their
credentials there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from opentelemetry import propagate, trace

_tracer = trace.get_tracer("wedsync.http")


@contextmanager
def traced(request: httpx.Request) -> Iterator[trace.Span]:
    """Send the trace's ids with the request, in a span of its own where spans are kept."""
    current = trace.get_current_span()
    if not current.is_recording():
        # Nobody would see the span; making it costs a tenth of a call.
        propagate.inject(request.headers)
        yield current
        return
    url = request.url
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "url.full": str(url.copy_with(query=None, fragment=None, username=None, password=None)),
        "server.address": url.host,
        "server.port": url.port or {"http": 80}.get(url.scheme, 443),
    }
    with _tracer.start_as_current_span(
        request.method, kind=trace.SpanKind.CLIENT, attributes=attributes, record_exception=False
    ) as span:
        propagate.inject(request.headers)
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            raise


def answered(span: trace.Span, status: int) -> None:
    """Record the vendor's answer; from 400 on the span is an error."""
    if span.is_recording():
        span.set_attribute("http.response.status_code", status)
        if status >= 400:
            span.set_attribute("error.type", str(status))
            span.set_status(trace.StatusCode.ERROR)
