"""Traces of OpenTelemetry: what a real worker exports by OTLP over HTTP, and in which trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from sendq import Message, State
from tests.support.posted import Posted
from tests.support.servers import PgServer
from tests.support.system import running
from tests.support.waiting import eventually

MARKED = Message(to=["bad+marked@marked-domain.example"], subject="marked-subject", body="<p>marked-body</p>")


class Collector(Posted):
    """A receiver of OTLP over HTTP."""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    def spans(self) -> list[Any]:
        """All spans so far."""
        return spans_of(self.requests)

    def requests_without_ids(self) -> list[ExportTraceServiceRequest]:
        """The requests without the ids of traces and spans, whose random bytes can be any character."""
        requests = self.requests
        for span in spans_of(requests):
            for field in ("trace_id", "span_id", "parent_span_id"):
                span.ClearField(field)
        return requests


def spans_of(requests: list[ExportTraceServiceRequest]) -> list[Any]:
    resources = [one for request in requests for one in request.resource_spans]
    return [span for one in resources for scope in one.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_each_attempt_is_a_span_in_the_callers_trace(pg_server: PgServer, tmp_path: Path, collector: Collector) -> None:
    tracer = TracerProvider().get_tracer("shop")
    with pg_server.ledger() as url, running(url, tmp_path) as system:
        worker = system.start_worker(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="200")
        with tracer.start_as_current_span("checkout") as caller:
            traced = system.queue.send("open", Message(to=["leyah@example.com"], subject="s", body="b"))
            batch = system.queue.modify("open", ["m1"], starred=True)
        alone = system.queue.send("open", MARKED)
        system.wait_for(State.DEAD, 1)
        eventually(lambda: len(collector.spans()) >= 3, "three spans at the collector")
        assert worker.terminate() == 0
        (changed,) = system.queue.jobs(batch_id=batch.id).items
    spans = {attribute(span, "messaging.message.id"): span for span in collector.spans()}
    context = caller.get_span_context()
    for job in (traced.id, changed.id):
        assert spans[job].trace_id == context.trace_id.to_bytes(16, "big")
        assert spans[job].parent_span_id == context.span_id.to_bytes(8, "big")
    assert spans[alone.id].trace_id != context.trace_id.to_bytes(16, "big")
    assert attribute(spans[alone.id], "sendq.rule") == "bad_request"
    resource = {one.key: one.value.string_value for one in collector.requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "sendq-worker"
    text = "".join(str(request) for request in collector.requests_without_ids())
    assert "messaging.message.id" in text
    assert not [mark for mark in ("marked", "leyah", "@") if mark in text]


def attribute(span: Any, name: str) -> str:
    (value,) = [one.value.string_value for one in span.attributes if one.key == name]
    return str(value)
