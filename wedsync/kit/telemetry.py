"""Trace and measure by OpenTelemetry.

One trace runs from the API call through workflow and activity to the vendor's request. Spans and metrics are pushed
by OTLP over HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set; metrics can always be read in Prometheus' text format.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, start_http_server
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, ReplaySafeTracerProvider, create_tracer_provider

from wedsync.kit.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from temporalio.client import Plugin

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
_SCOPE = "wedsync"
_VERSION = version("wedsync")
_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_{}_ENDPOINT")

_registry = CollectorRegistry()
_lock = threading.Lock()
_tracer_provider: ReplaySafeTracerProvider | None = None
_meter_provider: MeterProvider | None = None

# The meter is a proxy until `setup`: instruments made at import count from then on.
_meter = metrics.get_meter(_SCOPE, _VERSION)
_requests = _meter.create_histogram("http.server.request.duration", unit="s", description="How long requests took")
_vendor_calls = _meter.create_counter("vendor_calls", description="Calls to vendors, by outcome")
_vendor_seconds = _meter.create_histogram("vendor_call", unit="s", description="How long vendors took to answer")
_transactions = _meter.create_counter("transactions", description="Transactions that settled, by status")
_steps = _meter.create_counter("steps", description="Steps that reached a status")
_compensations = _meter.create_counter("compensations", description="Undos that ended, by status")


def setup(settings: Settings, program: str) -> None:
    """Start tracing and counting in this process, as the service `wedsync-{program}`; a second call does nothing."""
    global _tracer_provider, _meter_provider
    with _lock:
        if _tracer_provider is not None:
            return
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", f"wedsync-{program}"),
                "service.version": _VERSION,
                "deployment.environment.name": settings.environment,
            }
        )
        # Nobody looks at spans that are pushed nowhere: they then carry ids (for logs and vendors) and nothing else.
        sampler = None if _pushes("TRACES") else ALWAYS_OFF
        # Programs flush at their end themselves: an exporter must not delay the interpreter's exit.
        _tracer_provider = create_tracer_provider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        _meter_provider = MeterProvider(_readers(), resource, shutdown_on_exit=False, views=[_seconds_view()])
        if _pushes("TRACES"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            _tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(_tracer_provider)
    metrics.set_meter_provider(_meter_provider)
    # Vendors get the trace's ids, never our baggage.
    propagate.set_global_textmap(TraceContextTextMapPropagator())
    HTTPXClientInstrumentor().instrument()
    if _pushes("TRACES"):
        PsycopgInstrumentor().instrument()


def _readers() -> list[MetricReader]:
    readers: list[MetricReader] = [PrometheusMetricReader(registry=_registry, scope_info_enabled=False)]
    if _pushes("METRICS"):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    return readers


def _pushes(signal: str) -> bool:
    return any(os.environ.get(name.format(signal)) for name in _ENDPOINTS)


def _seconds_view() -> View:
    aggregation = ExplicitBucketHistogramAggregation(boundaries=_SECONDS_BUCKETS)
    return View(instrument_type=metrics.Histogram, instrument_unit="s", aggregation=aggregation)


def temporal_plugins() -> list[Plugin]:
    """Return what lets traces pass through workflows; nothing before `setup`, and where no spans are pushed.

    Then the ids that logs and vendors get begin anew with each activity.
    """
    if _tracer_provider is None or not _pushes("TRACES"):
        return []
    return [OpenTelemetryPlugin(add_temporal_spans=True)]


def instrument_app(app: FastAPI) -> None:
    """Trace the requests of an API app if spans are pushed, but for probes, metrics and inbound webhooks.

    A webhook's work happens elsewhere and later, and its span costs a third of its receipt; the inbox counts them.
    """
    if not _pushes("TRACES"):
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    untraced = "healthz,readyz,metrics,api/integrations/webhooks"
    FastAPIInstrumentor.instrument_app(
        app, excluded_urls=untraced, exclude_spans=["receive", "send"], meter_provider=metrics.NoOpMeterProvider()
    )


def traceparent(given: str | None) -> str | None:
    """Return the W3C trace context to pass on: the current span's, or the caller's when nothing is traced."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if not carrier and given:
        propagate.inject(carrier, propagate.extract({"traceparent": given}))
    return carrier.get("traceparent")


def record_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one request of the API; `route` is the path's template, empty when none was found."""
    _requests.record(seconds, {"http.request.method": method, "http.route": route, "http.response.status_code": status})


def tracer() -> trace.Tracer:
    """Return the product's tracer."""
    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=4)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    # Making one costs as much as a span.
    return provider.get_tracer(_SCOPE, _VERSION)


def meter() -> metrics.Meter:
    """Return the product's meter."""
    return _meter


def metrics_text() -> bytes:
    """Return all metrics of this process in Prometheus' text format (`METRICS_CONTENT_TYPE`)."""
    return generate_latest(_registry)


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Serve `metrics_text` at `http://{host}:{port}/metrics` from a thread of its own."""
    start_http_server(port, host, _registry)


def flush(timeout_seconds: float = 3.0) -> None:
    """Push what was not pushed yet; waits at most about `timeout_seconds` for each of traces and metrics."""
    if _tracer_provider is not None:
        _tracer_provider.force_flush(int(timeout_seconds * 1000))
    if _meter_provider is not None:
        _meter_provider.force_flush(timeout_seconds * 1000)


def record_vendor_call(vendor: str, operation: str, outcome: str, seconds: float) -> None:
    """Count one call: `outcome` is `ok` or the code of the error."""
    attributes: dict[str, Any] = {"vendor": vendor, "operation": operation}
    _vendor_calls.add(1, {**attributes, "outcome": outcome})
    _vendor_seconds.record(seconds, attributes)


def record_transaction(kind: str, status: str) -> None:
    """Count a transaction that settled."""
    _transactions.add(1, {"kind": kind, "status": status})


def record_step(action: str, status: str) -> None:
    """Count a step that reached `status`; `action` is `capability.action`."""
    _steps.add(1, {"action": action, "status": status})


def record_compensation(action: str, status: str) -> None:
    """Count an undo that ended; `action` is `capability.action`."""
    _compensations.add(1, {"action": action, "status": status})
