"""schemathesis plays against the OpenAPI document: whatever it sends, valid or not, is answered as described."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from sendq import NewBatch, SendQueue
from sendq import Send as PySend
from sendq.api import api
from sendq.api.openapi import document
from sendq.testing import enqueued
from tests.integration.api.conftest import Client
from tests.support.ledger import MESSAGE, Ledger

# Of these kinds of checks, one does not fit: a value may have the right type and still be refused (422), with its
# field, since JSON Schema does not say which addresses, keys and times are valid.
# And requests without a token are the subject of `test_scopes`: here each has one.
LEFT_OUT = {"positive_data_acceptance", "ignored_auth"}

# What hardly comes about by chance: requests that are carried out.
SEND = {"grant_id": "g1", "message": {"to": ["leyah@example.com"]}}
VALID = {
    "send": SEND, "send_many": {"sends": [SEND]}, "create_batch": {"sends": [SEND], "tags": {"campaign": "may"}},
    "add": {"sends": [SEND]}, "modify": {"grant_id": "g1", "message_ids": ["m1"], "unread": False},
    "delete": {"grant_id": "g1", "thread_ids": ["t1"]},
}  # fmt: skip


@pytest.fixture
def known(kept: Ledger) -> dict[str, str]:
    """Ids that exist, so that addresses are not all unknown."""
    job = kept.queue.send("g1", MESSAGE, key="k").id
    batch = kept.queue.send_many([PySend("g1", MESSAGE)], batch=NewBatch(open=True)).id
    kept.absorb()
    return {"job_id": job, "batch_id": batch, "grant_id": "g1"}


@pytest.fixture
def fast(kept: Ledger, tokens: Path, client: Client) -> Starlette:
    """The API without a limit of requests."""
    return api(SendQueue(kept.engine), tokens=tokens, rate=100_000)


def play(application: Starlette, token: str | None, known: dict[str, str], *, examples: int) -> set[tuple[str, int]]:
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
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

        @seed(0)
        @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=cases, use_known=st.booleans())
        def one(case: Any, use_known: bool) -> None:
            if use_known and case.path_parameters:
                case.path_parameters |= {one: known[one] for one in case.path_parameters if one in known}
            response = case.call(headers=headers)
            seen.add((name, response.status_code))  # noqa: B023
            case.validate_response(response, checks=checks, headers=headers)

        one()
        if name in VALID:
            path = {one: known[one] for one in known if f"{{{one}}}" in operation.path}
            case = operation.Case(body=VALID[name], media_type="application/json", path_parameters=path)
            response = case.call(headers=headers)
            assert response.status_code == 201, response.text
            case.validate_response(response, checks=checks, headers=headers)
            seen.add((name, 201))
    return seen


class TestWhateverIsSent:
    def test_is_answered_as_described(self, fast: Starlette, client: Client, known: dict[str, str]) -> None:
        seen = play(fast, client.token, known, examples=2)
        assert {name for name, _ in seen} == _names()

    @pytest.mark.long
    def test_is_answered_as_described_in_a_long_play(
        self, fast: Starlette, client: Client, known: dict[str, str], kept: Ledger
    ) -> None:
        seen = play(fast, client.token, known, examples=40)
        assert {name for name, _ in seen} == _names()
        assert {200, 201, 400, 404, 422} <= {status for _, status in seen}
        assert all(UUID(one.id) for one in enqueued(kept.queue))


def _names() -> set[str]:
    return {one["operationId"] for methods in document()["paths"].values() for one in methods.values()}
