"""Paces: what workers make of a provider's limits, with the limits themselves as referee."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from sendq import Options, Send, State, clock
from sendq.clock import SECOND
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from sendq.operators import Operators
from sendq.rules.pace import PACES
from sendq.simulator import Fault, Request
from sendq.simulator.limits import GMAIL_EXHAUSTED, ProviderLimits, stated_usage
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

# A minute of Google's and Microsoft's lasts 6 s, Exchange's ten minutes 60 s.
SCALE = 0.1


DISABLED = Fault.status(
    403,
    type="api.provider_error",
    message="Gmail API has not been used in project 42 before or it is disabled.",
    provider_error={"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "accessNotConfigured"}},
)

# Messages for each: two windows full of them, so that none may pass at once.
NUMBERS = {"google": 120, "microsoft": 60, "ews": 60}


def shrunk() -> str:
    """The providers' own limits, over windows that are shorter by as much as the referee's."""
    rules = []
    for provider in ("google", "microsoft", "ews"):
        limits = {
            limit.name: {"units": limit.units, "window_s": limit.window / SECOND * SCALE}
            for limit in PACES[provider].limits
            if not limit.name.startswith("nylas")
        }
        rules.append({"provider": provider, "limits": limits | {"nylas": None}})
    return json.dumps(rules)


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("system")
    with pg_server.ledger() as url, running(url, directory) as system:
        for provider in ("google", "microsoft", "ews"):
            system.prove(provider=provider)
        system.start_worker(SENDQ_PACES=shrunk(), SENDQ_ASK_PROVIDERS="true")
        yield system


class TestALaneWithPublishedLimits:
    def test_is_hardly_ever_refused(self, system: System) -> None:
        providers = {"quick-google": "google", "quick-microsoft": "microsoft", "quick-ews": "ews"}
        limits = ProviderLimits(lambda grant: providers.get(grant, "imap"), scale=SCALE)
        system.api.behaviour.gate = limits
        for grant, provider in providers.items():
            system.queue.send_many([Send(grant, mail(), Options(provider=provider)) for _ in range(NUMBERS[provider])])
        wanted = {grant: NUMBERS[provider] for grant, provider in providers.items()}
        eventually(lambda: dict(limits.admitted) == wanted, "all of it")
        assert sum(limits.refused.values()) <= 1

    def test_keeps_a_second_between_modifications_once_one_was_refused(self, system: System) -> None:
        system.api.behaviour.gate = None
        system.api.will(GMAIL_EXHAUSTED, grant="refused", operation="modify", times=1)
        batch = system.queue.modify("refused", [f"m{n}" for n in range(5)], unread=True, provider="google")
        eventually(lambda: system.queue.batch(batch.id).waiting == 0, "the batch")
        calls = [one for one in system.api.requests if one.grant == "refused" and one.operation == "modify"]
        refused = next(place for place, one in enumerate(calls) if one.status == 429)
        assert len(calls) - refused >= 4
        assert all(after.at - before.at >= 1.0 for before, after in pairwise(calls[refused:]))


class TestAnAnswerThatStatesWhatItsCallUsed:
    def test_is_charged_and_shown(self, system: System) -> None:
        system.api.behaviour.gate, system.api.behaviour.usage = None, stated_usage
        job = system.queue.send("stating", mail(), provider="google")
        operators = Operators(system.engine)
        eventually(lambda: operators.grant("stating").costs == {"send": 115}, "the stated use in the ledger")
        assert system.state(job.id) is State.SENT
        system.api.behaviour.usage = None


class TestAGrantWhoseProviderNobodyNamed:
    def test_is_asked_about_once_and_keeps_that_providers_pace(self, system: System) -> None:
        system.api.behaviour.gate = None
        system.api.grant("anonymous", provider="ews")
        job = system.queue.send("anonymous", mail())
        eventually(lambda: [one.provider for one in lanes(system, "anonymous")] == ["ews"], "the answer")
        eventually(lambda: system.state(job.id) is State.SENT, "the sending")
        (lane,) = lanes(system, "anonymous")
        assert (lane.width, lane.ask_at) == (PACES["ews"].width, None)
        asked = [one for one in system.api.requests if one.grant == "anonymous" and one.operation == "grant"]
        assert len(asked) == 1

    def test_holds_no_other_account_when_its_provider_fails(self, system: System) -> None:
        api_is_silent = True

        def gate(request: Request) -> Fault | None:
            if request.grant != "disabled":
                return None
            if request.operation == "grant":
                return Fault.status(503) if api_is_silent else None
            return DISABLED

        system.api.behaviour.gate = gate
        system.api.grant("disabled", provider="google")
        bad = system.queue.send("disabled", mail())
        eventually(lambda: system.queue.job(bad.id).trail, "the failure of its provider")
        others = [f"new-{number}" for number in range(80)]
        for grant in others:
            system.api.grant(grant, provider="imap")
        jobs = system.queue.send_many([Send(grant, mail()) for grant in others])
        eventually(lambda: {system.state(job.id) for job in jobs} == {State.SENT}, "the mail of the other accounts")
        assert "unknown" not in held_pairs(system)
        assert system.queue.why(bad.id).says == "the grant is held"
        api_is_silent = False
        with writing(system.engine) as connection:
            connection.execute(update(schema.lane).where(schema.lane.c.grant_id == "disabled").values(ask_at=1))
        eventually(lambda: held_pairs(system) == {"google"}, "the hold of the provider that the API named")
        why = system.queue.why(bad.id)
        assert (why.says, why.rule) == ("the provider is held", "gmail_api_disabled")


def held_pairs(system: System) -> set[str]:
    """The providers that are held."""
    return {row.provider for row in system.rows(schema.pair) if (row.held_until or 0) > clock.now()}


def lanes(system: System, grant: str) -> Sequence[Row[Any]]:
    """A grant's lane, if there is one."""
    with system.engine.connect() as connection:
        return connection.execute(select(schema.lane).where(schema.lane.c.grant_id == grant)).all()
