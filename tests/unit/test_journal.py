"""The log events: what each line holds, and that docs/logs.md is generated from the module.

``./dev python -m tests.unit.test_journal`` writes docs/logs.md again.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sendq.facts.outcomes import Attempt, Hold, Outcome, Scope
from sendq.ids import new_id
from sendq.rules.states import Event
from worker.telemetry import journal

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
HEAD = """\
# The log

Workers log to stderr, one event per line: as JSON, or as columns for people (`SENDQ_LOG_FORMAT`). `SENDQ_LOG_LEVEL`
sets the lowest level. Every line has `timestamp`, `level` and `event`. The other fields hold ids, rules of the error
policy and numbers; never an address, a subject, a body, or the text of a library's exception. Lines with a `logger`
come from libraries, such as Celery, and are not listed here. To see the history of a job, a grant or a worker, grep for
its id.

| event | level | fields | meaning |
|---|---|---|---|
"""


def events() -> Iterator[tuple[str, str, list[str], str]]:
    """Every line that the module can write: event, level, fields, meaning."""
    functions = {
        node.name: node for node in ast.parse(inspect.getsource(journal)).body if isinstance(node, ast.FunctionDef)
    }
    for function in functions.values():
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _is_log(call.func.value):
                assert isinstance(call.args[0], ast.Constant)
                meaning = ast.get_docstring(function)
                assert meaning, f"{function.name} does not say what it means"
                yield str(call.args[0].value), call.func.attr, _fields(call, functions), " ".join(meaning.split())


def _is_log(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "_log"


def _fields(call: ast.Call, functions: dict[str, ast.FunctionDef]) -> list[str]:
    names: list[str] = []
    for keyword in call.keywords:
        if keyword.arg is not None:
            names.append(keyword.arg)
        elif isinstance(keyword.value, ast.Call) and isinstance(keyword.value.func, ast.Name):
            (shared,) = [node for node in ast.walk(functions[keyword.value.func.id]) if isinstance(node, ast.Return)]
            assert isinstance(shared.value, ast.Dict)
            names += [str(key.value) for key in shared.value.keys if isinstance(key, ast.Constant)]
        else:
            names.append("the ids concerned")
    return names


def page() -> str:
    rows = []
    for event, level, fields, meaning in events():
        listed = ", ".join(name if " " in name else f"`{name}`" for name in fields)
        rows.append(f"| `{event}` | {level.replace('exception', 'error')} | {listed} | {meaning} |\n")
    return HEAD + "".join(rows)


def test_the_page_has_every_event_with_its_fields() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "./dev python -m tests.unit.test_journal"


def test_no_two_functions_write_one_event() -> None:
    names = [event for event, *_ in events()]
    assert len(names) == len(set(names))


ANSWERED = Attempt(
    new_id(),
    new_id(),
    0,
    None,
    0,
    1,
    503,
    "a_rule",
    "retry",
    "no",
    error="marked words of a provider",
    request_id="r-1",
)


def outcome(event: Event, *, called: bool = True, hold: Hold | None = None) -> Outcome:
    return Outcome(
        id=new_id(), lane_id=new_id(), fence=1, job_id=new_id(), operation="send", event=event, rule="a_rule",
        next_at=0, attempt=ANSWERED if called else None, hold=hold, grant_id="a-grant", application="default",
        provider="google",
    )  # fmt: skip


HELD = Hold(scope=Scope.GRANT, rule="a_rule", by="policy", until=1_780_000_000_000_000)
CLOSED = Hold(scope=Scope.GRANT, rule="a_rule", by="policy", until=None)


class TestALineAboutAJob:
    @pytest.mark.parametrize(
        ("event", "write"),
        [
            ("accepted", lambda: journal.accepted(outcome(Event.ACCEPT))),
            ("attempt_failed", lambda: journal.recorded(outcome(Event.RETURN))),
            ("attempt_failed", lambda: journal.recorded(outcome(Event.GIVE_UP))),
            ("ended_without_call", lambda: journal.recorded(outcome(Event.EXPIRE, called=False))),
            ("held", lambda: journal.held(outcome(Event.RETURN, hold=HELD))),
            ("closed_for_reauth", lambda: journal.held(outcome(Event.RETURN, hold=CLOSED))),
            ("late_outcome", lambda: journal.late_outcomes([outcome(Event.ACCEPT)])),
            ("sent_twice", lambda: journal.sent_twice([outcome(Event.ACCEPT)])),
            ("text_rejected", lambda: journal.text_rejected(outcome(Event.RETURN), ValueError("marked"))),
        ],
    )
    def test_names_the_job_its_grant_and_the_rule_and_quotes_nobody(self, event: str, write: object) -> None:
        assert callable(write)
        with capture_logs() as lines:
            write()
        (line,) = lines
        assert line["event"] == event
        assert (line["grant"], line["rule"]) == ("a-grant", "a_rule")
        assert line["job"]
        assert "marked" not in str(line)

    def test_is_not_written_for_one_that_goes_back_untouched(self) -> None:
        with capture_logs() as lines:
            journal.recorded(outcome(Event.RETURN, called=False))
        assert lines == []


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
