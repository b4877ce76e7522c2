"""One trace from the request to the vendor; metrics in Prometheus' format; nothing without a collector."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.support.collector import Collector, collector
from wedsync.kit import telemetry
from wedsync.local.temporal_server import EmbeddedTemporal

__all__ = ["collector"]
PROGRAM = Path(__file__).with_name("traced_program.py")


def _run(collector: Collector, temporal_server: EmbeddedTemporal, **more: str) -> str:
    environment = {
        **os.environ,
        "TEMPORAL_ADDRESS": temporal_server.address,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        **more,
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM), collector.url], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_trace_runs_from_the_request_to_the_vendor(collector: Collector, temporal_server: EmbeddedTemporal) -> None:
    metrics = _run(collector, temporal_server, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    spans = collector.spans()
    (root,) = [span for span in spans if span.name == "request"]
    ours = {span.span_id: span for span in spans if span.trace_id == root.trace_id}
    names = {span.name for span in ours.values()}
    assert {"StartWorkflow:Book", "RunWorkflow:Book", "StartActivity:call", "RunActivity:call", "POST"} <= names
    # Each hangs beneath another one of the trace, up to the request.
    assert all(span.parent_span_id in ours for span in ours.values() if span is not root)
    ((_, headers, _),) = [post for post in collector.posts if post[0] == "/v1/payment_intents"]
    version, trace_id, parent_id, _ = headers["traceparent"].split("-")
    assert (version, trace_id) == ("00", root.trace_id.hex())
    request = ours[bytes.fromhex(parent_id)]
    assert request.name == "POST"
    said = {one.key: one.value.string_value or one.value.int_value for one in request.attributes}
    assert said["url.full"] == f"{collector.url}/v1/payment_intents"
    assert said["http.response.status_code"] == 200
    assert "secret" not in str(request)
    assert "baggage" not in headers
    pushed = ExportMetricsServiceRequest.FromString(collector.bodies("/v1/metrics")[-1])
    assert "vendor_calls" in {
        metric.name for one in pushed.resource_metrics for scope in one.scope_metrics for metric in scope.metrics
    }
    assert 'vendor_calls_total{operation="create",outcome="ok",vendor="stripe"} 1.0' in metrics


def test_without_a_collector_nothing_is_pushed_and_metrics_can_be_read(
    collector: Collector, temporal_server: EmbeddedTemporal
) -> None:
    metrics = _run(collector, temporal_server)
    assert [path for path, _, _ in collector.posts] == ["/v1/payment_intents"]
    assert 'vendor_call_seconds_bucket{le="0.5",operation="create",vendor="stripe"} 1.0' in metrics
    assert 'transactions_total{kind="orchestrate",status="completed"} 1.0' in metrics
    assert 'steps_total{action="payments.deposit",status="succeeded"} 1.0' in metrics
    assert 'compensations_total{action="payments.deposit",status="undone"} 1.0' in metrics


def test_without_a_collector_no_trace_travels_through_histories(
    collector: Collector, temporal_server: EmbeddedTemporal
) -> None:
    assert "# headers []" in _run(collector, temporal_server)
    assert "# headers ['" in _run(collector, temporal_server, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)


def test_counting_before_setup_does_no_harm() -> None:
    telemetry.record_vendor_call("stripe", "create", "ok", 0.1)
    telemetry.flush()
    assert isinstance(telemetry.metrics_text(), bytes)
