"""One trace from the request to the vendor; metrics in Prometheus' format; nothing without a collector."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from wedsync.kit import telemetry
from wedsync.local.temporal_server import EmbeddedTemporal

PROGRAM = Path(__file__).with_name("traced_program.py")


class Collector(ThreadingHTTPServer):
    """Takes OTLP on /v1/..., plays the vendor elsewhere."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bodies(self, path: str) -> list[bytes]:
        return [body for posted, _, body in self.posts if posted == path]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.posts.append((self.path, headers, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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
    spans = [
        span
        for body in collector.bodies("/v1/traces")
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    (root,) = [span for span in spans if span.name == "request"]
    ours = {span.span_id: span for span in spans if span.trace_id == root.trace_id}
    names = {span.name for span in ours.values()}
    assert {"StartWorkflow:Book", "RunWorkflow:Book", "StartActivity:call", "RunActivity:call", "POST"} <= names
    # Each hangs beneath another one of the trace, up to the request.
    assert all(span.parent_span_id in ours for span in ours.values() if span is not root)
    ((_, headers, _),) = [post for post in collector.posts if post[0] == "/v1/payment_intents"]
    version, trace_id, parent_id, _ = headers["traceparent"].split("-")
    assert (version, trace_id) == ("00", root.trace_id.hex())
    assert ours[bytes.fromhex(parent_id)].name == "POST"
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


def test_counting_before_setup_does_no_harm() -> None:
    telemetry.record_vendor_call("stripe", "create", "ok", 0.1)
    telemetry.flush()
    assert isinstance(telemetry.metrics_text(), bytes)
