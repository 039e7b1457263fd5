"""An API key of another Nylas application: every grant is "not found", and nothing ends for it; deleted grants do."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
from sqlalchemy import select

from sendq import Operators, Options, Send, State, clock
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.operators.holds import release_pair
from sendq.rules.pace import PACES
from sendq.simulator import Fault, Request
from tests.integration.processes.test_reauth import DELETED, all_are, lane
from tests.support.servers import PgServer
from tests.support.system import API_KEY, System, mail, running
from tests.support.waiting import eventually

APPLICATIONS = ("cold", "turned", "mixed", "lonely", "mistaken", "denied")
WINDOW_S = 6.0  # of SENDQ_ESCALATE_WINDOW_S
CALLS_AT_ONCE = PACES["google"].width  # of each lane here


@pytest.fixture(scope="module")
def system(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker; each test has an application of its own, whose grants have its name."""
    directory = tmp_path_factory.mktemp("system")
    with pg_server.ledger() as url, running(url, directory, latency=0.02) as system:
        known = {name: {"api_key": API_KEY, "api_uri": system.api.url} for name in APPLICATIONS}
        system.start_worker(
            SENDQ_APPLICATIONS=json.dumps(known), SENDQ_ANNOUNCE_AFTER_S="1", SENDQ_ESCALATE_WINDOW_S=str(WINDOW_S)
        )
        yield system


class Key:
    """The key of an application: while it is wrong, the API knows none of the application's grants."""

    def __init__(self, system: System, application: str, *, wrong: bool) -> None:
        self.wrong, self._application, self._api = wrong, application, system.api
        self._api.behaviour.gate = self._gate

    def _gate(self, request: Request) -> Fault | None:
        return DELETED if self.wrong and (request.grant or "").startswith(self._application) else None

    def refused(self) -> int:
        """Calls that met the wrong key, questions about grants included."""
        return self.refused_by("send").total() + self.refused_by("grant").total()

    def refused_by(self, operation: str) -> Counter[str]:
        """Calls of this operation that met the wrong key, by grant."""
        return Counter(
            one.grant
            for one in self._api.requests
            if one.grant is not None and one.grant.startswith(self._application)
            if (one.operation, one.status) == (operation, 404)
        )


def enqueue(system: System, application: str, *, grants: int, each: int) -> list[str]:
    options = Options(application=application, provider="google")
    sends = [Send(f"{application}-{number}", mail(), options) for number in range(grants)] * each
    return [job.id for job in system.queue.send_many(sends)]


def is_held(system: System, application: str) -> bool:
    pair = schema.pair.c
    held = select(pair.held_until, pair.held_rule).where(pair.application == application, pair.provider == "*")
    with reading(system.engine) as connection:
        row = connection.execute(held).one_or_none()
    return row is not None and row.held_rule == "wrong_application" and (row.held_until or 0) > clock.now()


def release(system: System, application: str) -> None:
    with writing(system.engine) as connection:
        release_pair(connection, application, "*", by="anna", reason="the key is set", now=clock.now())


def none_ended(system: System, jobs: Sequence[str]) -> bool:
    states = {system.state(job) for job in jobs}
    return not states & {State.DEAD, State.IN_DOUBT, State.EXPIRED}


class TestAKeyOfAnotherApplication:
    def test_from_the_start_ends_nothing_and_costs_few_calls(self, system: System) -> None:
        key = Key(system, "cold", wrong=True)
        jobs = enqueue(system, "cold", grants=100, each=10)
        eventually(lambda: is_held(system, "cold"), "the hold of the application")
        release(system, "cold")  # by mistake: the key is still wrong
        eventually(lambda: is_held(system, "cold"), "the next hold")
        why = system.queue.why(jobs[0])
        assert (why.says, why.rule) == ("the application is held", "wrong_application")
        assert key.refused() <= 20
        assert none_ended(system, jobs[::20])
        key.wrong = False
        release(system, "cold")
        eventually(partial(all_are, system, jobs, State.SENT), "every job sent")
        accepted = system.accepted()
        assert {accepted[job] for job in jobs} == {1}

    @pytest.mark.long
    def test_in_the_middle_costs_the_calls_on_the_wire(self, system: System) -> None:
        key = Key(system, "turned", wrong=False)
        jobs = enqueue(system, "turned", grants=40, each=15)
        eventually(lambda: sum(one.status == 200 for one in system.api.requests) > 200, "the first jobs sent")
        key.wrong = True
        eventually(lambda: is_held(system, "turned"), "the hold of the application")
        # A lane ends its turn at its first refusal, so each costs no more than its calls at once, however late the
        # pause of the application is committed.
        assert max(key.refused_by("send").values()) <= CALLS_AT_ONCE
        assert key.refused_by("grant").total() <= 20
        key.wrong = False
        release(system, "turned")
        eventually(partial(all_are, system, jobs, State.SENT), "every job sent")


class TestADeletedGrant:
    def test_ends_its_jobs_beside_one_that_works(self, system: System) -> None:
        Key(system, "mixed", wrong=False)
        system.api.will(DELETED, grant="mixed-0", times=None)
        jobs = enqueue(system, "mixed", grants=5, each=5)
        gone = jobs[::5]
        eventually(partial(all_are, system, gone, State.DEAD), "the dead letters")
        assert {system.queue.job(job).rule for job in gone} == {"grant_not_found"}
        eventually(partial(all_are, system, [job for job in jobs if job not in gone], State.SENT), "the others sent")
        assert not is_held(system, "mixed")

    def test_that_is_the_only_one_ends_its_jobs_after_the_window(self, system: System) -> None:
        """A deleted grant and a wrong key look alike: it takes a while."""
        Key(system, "lonely", wrong=True)
        began = time.monotonic()
        jobs = enqueue(system, "lonely", grants=1, each=5)
        eventually(partial(all_are, system, jobs, State.DEAD), "the dead letters")
        assert time.monotonic() - began >= WINDOW_S

    def test_that_is_known_after_all_is_open_again(self, system: System) -> None:
        """The key was wrong for a moment, and nobody else was called meanwhile."""
        key = Key(system, "mistaken", wrong=True)
        jobs = enqueue(system, "mistaken", grants=1, each=5)
        eventually(lambda: key.refused() >= 2, "a question about the grant")
        key.wrong = False
        eventually(partial(all_are, system, jobs, State.SENT), "every job sent")
        assert lane(system, "mistaken-0", "mistaken").closed_at is None

    def test_that_is_known_after_all_ends_the_pause_of_the_others(self, system: System) -> None:
        """Its first answer was wrong. The others wait until the key is checked, and no longer."""
        Key(system, "denied", wrong=False)
        system.api.will(DELETED, grant="denied-0")
        jobs = enqueue(system, "denied", grants=1, each=5)
        eventually(lambda: "hold" in key_checks(system, "denied"), "the pause of the application")
        jobs += enqueue(system, "denied", grants=5, each=1)
        eventually(partial(all_are, system, jobs, State.SENT), "every job sent")
        assert key_checks(system, "denied") == ["hold", "release"]


def key_checks(system: System, application: str) -> list[str]:
    """The events of the checks of an application's key, the first one first."""
    page = Operators(system.engine).events(application=application, rule="key_check")
    return [event.kind for event in reversed(page.items)]
