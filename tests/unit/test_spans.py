"""Spans of OpenTelemetry: what they say of an attempt, whose trace they belong to, and no cost without them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sendq import InvalidJob, Message, Options, Send
from sendq.clock import SECOND
from sendq.enqueueing.planning import plan_sends
from sendq.enqueueing.tracing import active_traceparent
from sendq.facts.outcomes import Attempt, Outcome
from sendq.ids import new_id
from sendq.rules.states import Event
from settings.errors import SettingsError
from settings.otel import otel_problems, start_tracing, traces_wanted
from tests.support.waiting import LIMIT_S
from worker.doctor.check import check
from worker.telemetry.spans import Spans

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{SPAN}-01"
AT = 1_780_000_000 * SECOND


def outcome(event: Event = Event.ACCEPT, *, called: bool = True, **given: Any) -> Outcome:
    failed = event is not Event.ACCEPT
    job = new_id()
    attempt = Attempt(
        new_id(), job, 0, None, AT + 3 * SECOND, AT + 5 * SECOND, status=503 if failed else 200, rule="unavailable",
        route="retry" if failed else None, sent="no" if failed else "yes", error_type="x",
        error="no such user leyah@example.com", request_id="r-1",
    )  # fmt: skip
    facts: dict[str, Any] = {"application": "default", "provider": "google", "grant_id": "g1", "wanted_at": AT}
    facts |= {"attempts": 2, "message_id": "m-1"} | given
    return Outcome(
        new_id(), new_id(), 1, job, "send", event, "unavailable" if failed else "accepted", AT,
        attempt=attempt if called else None, **facts,
    )  # fmt: skip


def spans_of(*outcomes: Outcome) -> list[ReadableSpan]:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    Spans(provider).recorded(outcomes)
    return list(kept.get_finished_spans())


class TestASpan:
    def test_has_the_times_of_the_attempt_and_its_time_in_the_queue(self) -> None:
        (span,) = spans_of(outcome())
        assert (span.start_time, span.end_time) == ((AT + 3 * SECOND) * 1_000, (AT + 5 * SECOND) * 1_000)
        assert span.name == "sendq send"
        assert span.attributes is not None
        assert span.attributes["sendq.queue_time_s"] == 3
        assert span.attributes["http.response.status_code"] == 200
        assert span.status.is_ok

    def test_belongs_to_the_callers_trace_and_links_to_its_span(self) -> None:
        (span,) = spans_of(outcome(traceparent=CALLER))
        assert span.parent is not None
        assert span.context is not None
        assert (span.context.trace_id, span.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
        (link,) = span.links
        assert (link.context.trace_id, link.context.span_id) == (int(TRACE, 16), int(SPAN, 16))

    def test_begins_a_trace_without_a_caller(self) -> None:
        (span,) = spans_of(outcome())
        assert (span.parent, list(span.links)) == (None, [])

    def test_is_not_made_if_the_callers_trace_is_not_sampled(self) -> None:
        assert spans_of(outcome(traceparent=CALLER.removesuffix("01") + "00")) == []

    def test_says_that_and_by_which_rule_it_failed(self) -> None:
        (span,) = spans_of(outcome(Event.RETURN))
        assert (span.status.is_ok, span.status.description) == (False, "unavailable")
        assert span.attributes is not None
        assert (span.attributes["sendq.decision"], span.attributes["error.type"]) == ("retry", "unavailable")

    def test_has_nothing_of_a_mail(self) -> None:
        said = "".join(span.to_json() for span in spans_of(outcome(), outcome(Event.GIVE_UP), outcome(Event.DOUBT)))
        assert not [word for word in ("leyah", "@", "m-1", "no such user") if word in said]

    def test_is_of_a_call_only(self) -> None:
        assert spans_of(outcome(Event.EXPIRE, called=False)) == []


class TestWithoutTraces:
    def test_nothing_of_opentelemetry_is_imported(self) -> None:
        program = """if True:
            import sys
            import sendq.queue, worker.telemetry.spans, settings.otel
            from sendq.enqueueing.tracing import active_traceparent
            worker.telemetry.spans.Spans(settings.otel.start_tracing({})).recorded([])
            assert active_traceparent() is None
            print([name for name in sys.modules if name.startswith("opentelemetry")])
        """
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        assert done.stdout.strip() == "[]"

    def test_no_column_is_written(self) -> None:
        assert "traceparent" not in planned()[0]


class TestTheVariables:
    @pytest.mark.parametrize(
        ("environ", "wanted"),
        [
            ({}, False),
            ({"OTEL_SERVICE_NAME": "shop"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "True"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ],
    )
    def test_switch_it_on(self, environ: Mapping[str, str], wanted: bool) -> None:
        assert traces_wanted(environ) is wanted
        assert wanted or start_tracing(environ) is None

    def test_of_another_protocol_are_refused_by_name(self) -> None:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        assert [problem.field for problem in otel_problems(environ)] == ["OTEL_EXPORTER_OTLP_PROTOCOL"]
        with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL: is not http/protobuf"):
            start_tracing(environ)

    def test_of_another_protocol_fail_the_check(self, tmp_path: Path) -> None:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        nowhere = {"NYLAS_API_KEY": "k", "NYLAS_API_URI": "http://127.0.0.1:9", "REDIS_URL": "redis://127.0.0.1:9"}
        items = check({**environ, **nowhere, "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db"})
        (item,) = [item for item in items if item.name == "traces"]
        assert (item.state, item.says) == ("fail", "OTEL_EXPORTER_OTLP_PROTOCOL is not http/protobuf")

    def test_without_the_extra_say_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("settings.otel.find_spec", lambda _name: None)
        with pytest.raises(SettingsError, match=r"pip install 'sendq-worker\[otel\]'"):
            start_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})


def planned(*options: Options) -> list[dict[str, Any]]:
    message = Message(to=["leyah@example.com"], subject="s", body="b")
    sends = [Send("g1", message, one) for one in options or (Options(),)]
    plan = plan_sends(sends, indexed=True, now=AT, metadata_key="key1").plan
    return [dict(row) for row in plan.jobs]


class TestWhatIsKeptWithAJob:
    def test_is_the_callers_active_span(self) -> None:
        tracer = TracerProvider().get_tracer("test")
        with tracer.start_as_current_span("a request") as span:
            (row,) = planned()
            context = span.get_span_context()
        assert row["traceparent"] == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        assert active_traceparent() is None

    def test_is_what_the_caller_passes(self) -> None:
        first, second = planned(Options(traceparent=CALLER), Options())
        assert (first["traceparent"], second["traceparent"]) == (CALLER, None)

    @pytest.mark.parametrize(
        "given", ["x", 7, CALLER.upper(), f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"{CALLER}-x"]
    )
    def test_is_a_traceparent_or_refused(self, given: Any) -> None:
        with pytest.raises(InvalidJob) as error:
            planned(Options(traceparent=given))
        assert [problem.field for problem in error.value.problems] == ["[0].traceparent"]
