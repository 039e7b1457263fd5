"""schemathesis plays against the OpenAPI document: whatever it sends, valid or not, is answered as described."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from starlette.applications import Starlette

from sendq import NewBatch
from sendq import Send as PySend
from sendq.api.openapi import document
from sendq.testing import enqueued
from tests.integration.api.conftest import Client
from tests.integration.ledger.test_undo import changed
from tests.support.ledger import MESSAGE, Ledger

# Of these kinds of checks, one does not fit: a value may have the right type and still be refused (422), with its
# field, since JSON Schema does not say which addresses, keys and times are valid.
# And requests without a token are the subject of `test_scopes`: here each has one.
LEFT_OUT = {"positive_data_acceptance", "ignored_auth"}

# What hardly comes about by chance: requests that are carried out. The others need no body.
SEND = {"grant_id": "g1", "message": {"to": ["leyah@example.com"]}}
RESCHEDULE = {"due_at": "2100-01-01T00:00:00Z", "expires_at": "never", "reason": "a holiday"}
VALID = {
    "send": SEND, "send_many": {"sends": [SEND]}, "create_batch": {"sends": [SEND], "tags": {"campaign": "may"}},
    "add": {"sends": [SEND]}, "modify": {"grant_id": "g1", "message_ids": ["m1"], "unread": False, "undoable": True},
    "delete": {"grant_id": "g1", "thread_ids": ["t1"]}, "undo": {"priority": "low", "reason": "a mistake"},
    "replace": {"message": {"to": ["ann@example.com"]}, "suppressed": "drop", "reason": "a typo"},
    "reschedule_job": RESCHEDULE, "reschedule_batch": RESCHEDULE,
    "set_priority_job": {"priority": "high"}, "set_priority_batch": {"priority": 2, "reason": "no hurry"},
    "hold_job": {"reason": "not yet"}, "hold_batch": {"reason": "not yet"},
}  # fmt: skip
MAKES = {"send", "send_many", "create_batch", "add", "modify", "delete", "undo"}

Known = Callable[[str], dict[str, str]]


@pytest.fixture
def known(kept: Ledger) -> Known:
    """Makes ids that exist for an operation, so that addresses are not all unknown."""
    undoable = changed(kept).id

    def ids(operation: str) -> dict[str, str]:
        job = kept.queue.send("g1", MESSAGE).id
        batch = kept.queue.send_many([PySend("g1", MESSAGE)], batch=NewBatch(open=True)).id
        kept.absorb()
        return {"job_id": job, "batch_id": undoable if operation == "undo" else batch, "grant_id": "g1"}

    return ids


def play(application: Starlette, token: str | None, known: Known, *, examples: int) -> set[tuple[str, int]]:
    """Plays with every operation; returns the names of the operations with the statuses that were answered."""
    import schemathesis
    from schemathesis.checks import CHECKS
    from schemathesis.specs.openapi import checks as openapi_checks

    schema = schemathesis.openapi.from_dict({name: one for name, one in document().items() if name != "security"})
    schema.app = application
    assert openapi_checks
    checks = [one for one in CHECKS.get_all() if one.__name__ not in LEFT_OUT]
    headers = {"Authorization": f"Bearer {token}"}
    seen: set[tuple[str, int]] = set()
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        name = operation.definition.raw["operationId"]
        path = {one: value for one, value in known(name).items() if f"{{{one}}}" in operation.path}
        body = {"body": VALID[name], "media_type": "application/json"} if name in VALID else {}
        case = operation.Case(path_parameters=path, **body)
        response = case.call(headers=headers)
        assert response.status_code == (201 if name in MAKES else 200), response.text
        case.validate_response(response, checks=checks, headers=headers)
        seen.add((name, response.status_code))
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

        @seed(0)
        @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=cases, use_known=st.booleans())
        def one(case: Any, use_known: bool) -> None:
            if use_known and case.path_parameters:
                case.path_parameters |= path  # noqa: B023
            response = case.call(headers=headers)
            seen.add((name, response.status_code))  # noqa: B023
            case.validate_response(response, checks=checks, headers=headers)

        one()
    return seen


class TestWhateverIsSent:
    def test_is_answered_as_described(self, application: Starlette, client: Client, known: Known) -> None:
        seen = play(application, client.token, known, examples=2)
        assert {name for name, _ in seen} == _names()

    @pytest.mark.long
    def test_is_answered_as_described_in_a_long_play(
        self, application: Starlette, client: Client, known: Known, kept: Ledger
    ) -> None:
        seen = play(application, client.token, known, examples=40)
        assert {name for name, _ in seen} == _names()
        assert {200, 201, 400, 404, 422} <= {status for _, status in seen}
        assert all(UUID(one.id) for one in enqueued(kept.queue))


class TestTheDocument:
    def test_lists_conflicts_for_requests_that_change_something(self) -> None:
        for path, methods in document()["paths"].items():
            for method, operation in methods.items():
                assert ("409" in operation["responses"]) == (method == "post"), path

    def test_names_the_header_of_a_trace_for_requests_that_enqueue(self) -> None:
        traced = {
            operation["operationId"] for methods in document()["paths"].values() for operation in methods.values()
            if "traceparent" in [one["name"] for one in operation.get("parameters", ())]
        }  # fmt: skip
        assert traced == MAKES - {"undo"}

    def test_names_what_an_estimate_is_for(self) -> None:
        parameters = document()["paths"]["/v1/grants/{grant_id}/eta"]["get"]["parameters"]
        (operation,) = [one["schema"] for one in parameters if one["name"] == "operation"]
        assert operation == {"type": "string", "enum": ["send", "modify"]}

    def test_takes_null_for_what_is_not_set_as_the_server_does(self, client: Client) -> None:
        paths = {"Send": "/v1/send", "Modify": "/v1/modify", "Delete": "/v1/delete", "NewBatch": "/v1/batches"}
        mime = {"grant_id": "g1", "mime": base64.b64encode(b"To: ann@example.com\r\n\r\nHello").decode()}
        bodies: list[tuple[str, Any]] = [
            ("Send", SEND), ("Send", mime), ("NewBatch", VALID["create_batch"]), ("Modify", VALID["modify"]),
            ("Delete", VALID["delete"]), ("Delete", {"grant_id": "g1", "query": {"unread": True}}),
        ]  # fmt: skip
        for name, sent in bodies:
            properties = document()["components"]["schemas"][name]["properties"]
            nulls: dict[str, Any] = {
                one: None for one in properties if one not in sent and one not in ("sends", "grant_id")
            }
            assert client.post(paths[name], nulls | sent).status == 201, name
            is_described(name, nulls | sent)
        for wrong in (SEND | mime, {"grant_id": "g1"}, SEND | {"message": None}):
            assert client.post("/v1/send", wrong).status == 422
            with pytest.raises(ValidationError):
                is_described("Send", wrong)


def is_described(name: str, sent: Any) -> None:
    """Check something against a schema of the document."""
    components = {"components": document()["components"]}
    Draft202012Validator(components | {"$ref": f"#/components/schemas/{name}"}).validate(sent)


def _names() -> set[str]:
    return {one["operationId"] for methods in document()["paths"].values() for one in methods.values()}
