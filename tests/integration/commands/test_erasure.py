"""``sendq forget``: what of a grant's mail is erased, what stays, and what is left for later."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import make_url

from sendq import Attachment, Message, Operators, Query, SendQueue, State, clock
from sendq.facts.outcomes import Page
from sendq.ledger.db import migrate, schema
from sendq.ledger.operators import retry as retrying
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.states import Event
from settings import Settings
from tests.integration.ledger.test_sealed import everything
from tests.support.commands import Cli
from tests.support.ledger import Ledger, end, outcome
from worker.cli import retry

FILE = Attachment(filename="marked.txt", content=b"marked")
MARKED = Message(to=["marked@example.com"], subject="marked", body="marked", attachments=[FILE])
ASKED = ("--reason", "she asked for it", "--by", "anna")


def told(result: tuple[int, str, str], status: int = 0) -> Any:
    assert result[0] == status, result[2]
    return json.loads(result[1])


def called(ledger: Ledger, event: Event, grant: str = "g1", **given: Any) -> UUID:
    """A marked message that was called for, with an answer that quotes it."""
    ledger.clock.at = clock.now()
    job = UUID(ledger.queue.send(grant, MARKED, key=given.pop("key", None)).id)
    ledger.clock.advance(1)
    (claimed,) = [one for one in ledger.claim(ledger.offer()) if one.lane.grant_id == grant]
    done = outcome(claimed, claimed.jobs[0], event, **given)
    assert done.attempt is not None
    ledger.record(
        done._replace(attempt=done.attempt._replace(error="marked")),
        ends=[end(claimed)],
    )
    return job


class TestTheFileOfTheLedger:
    def test_has_no_copy_of_what_was_forgotten_while_others_have_it_open(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
        migrate.run(url)
        queue, operators = SendQueue(url), Operators(url)
        job = queue.send("g1", MARKED, key="k")
        for _ in range(30):
            queue.send("g1", MARKED)
        assert b"marked" in files(tmp_path)
        operators.forget("g1", by="anna", reason="she asked for it").finish()
        assert queue.job(job.id).state == "cancelled"  # its connection is open
        assert b"marked" not in files(tmp_path)
        queue.close()
        operators.close()

    def test_can_be_read_by_its_owner_alone(self, tmp_path: Path) -> None:
        before = os.umask(0o022)
        try:
            home = tmp_path / "run" / "sendq"
            Settings(home=home).make_home()
            url = f"sqlite:///{home / 'ledger.db'}"
            migrate.run(url)
            queue = SendQueue(url)
            queue.send("g1", MARKED)
            modes = {path.name: path.stat().st_mode & 0o777 for path in [home.parent, home, *home.iterdir()]}
            queue.close()
            asyncio.run(migrate._run_async(make_url(f"sqlite+aiosqlite:///{home / 'async.db'}")))
        finally:
            os.umask(before)
        assert {name: mode for name, mode in modes.items() if "." in name}.keys() >= {"ledger.db", "ledger.db-wal"}
        assert {mode for name, mode in modes.items() if "." in name} == {0o600}
        assert (modes["run"], modes["sendq"]) == (0o700, 0o700)
        assert (home / "async.db").stat().st_mode & 0o777 == 0o600


def files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


class TestForgetting:
    def test_erases_bodies_errors_and_what_keys_stand_for_and_cancels_what_waits(
        self, ledger: Ledger, cli: Cli
    ) -> None:
        called(ledger, Event.ACCEPT, key="k1")
        called(ledger, Event.GIVE_UP)
        ledger.queue.modify("g1", ["m1"], metadata={"key2": "marked"}, key="b1")
        waits = ledger.queue.send("g1", MARKED)
        other = ledger.queue.send("g2", MARKED)
        digests = {bytes(row.digest) for row in ledger.rows(schema.key)}
        seen = told(cli("forget", "--grant", "g1", *ASKED, "--json"))
        assert (seen["cancelled"], seen["erased"], seen["keys"], seen["batches"]) == (2, 4, 2, 1)
        assert seen["left"] == {"in_flight": 0, "in_doubt": 0, "batches": 0}
        assert ledger.queue.job(waits.id).state is State.CANCELLED
        assert ledger.queue.job(waits.id).rule == "forgotten"
        assert {str(row.job_id) for row in ledger.rows(schema.payload)} == {other.id}
        assert len(ledger.rows(schema.content)) == 1  # which another grant sends as well
        told(cli("forget", "--grant", "g2", *ASKED, "--json"))
        assert b"marked" not in everything(ledger)
        assert not digests & {bytes(row.digest) for row in ledger.rows(schema.key)}

    def test_keeps_that_a_repeat_under_the_same_key_makes_no_second_mail(self, ledger: Ledger, cli: Cli) -> None:
        job = called(ledger, Event.ACCEPT, key="k1")
        told(cli("forget", "--grant", "g1", *ASKED, "--json"))
        again = ledger.queue.send("g1", MARKED, key="k1")
        assert (again.id, again.existed) == (str(job), True)

    def test_leaves_what_is_on_the_wire_or_in_doubt_and_says_so(self, ledger: Ledger, cli: Cli) -> None:
        called(ledger, Event.DOUBT, sent="maybe")
        ledger.clock.at = clock.now()
        on_the_wire = UUID(ledger.queue.send("g1", MARKED).id)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        seen = told(cli("forget", "--grant", "g1", *ASKED, "--json"), status=1)
        assert seen["left"] == {"in_flight": 1, "in_doubt": 1, "batches": 0}
        assert len(ledger.rows(schema.payload)) == 2
        # It is cancelled as far as that goes, and forgotten the next time.
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN), ends=[end(claimed)])
        assert ledger.state(on_the_wire) is State.CANCELLED
        seen = told(cli("forget", "--grant", "g1", *ASKED, "--json"), status=1)
        assert seen["left"] == {"in_flight": 0, "in_doubt": 1, "batches": 0}
        assert len(ledger.rows(schema.payload)) == 1

    def test_leaves_a_batch_of_which_something_is_on_the_wire(self, ledger: Ledger, cli: Cli) -> None:
        ledger.clock.at = clock.now()
        ledger.queue.modify("g1", ["m1", "m2"], metadata={"key2": "marked"})
        ledger.clock.advance(1)
        claimed = ledger.serve()
        assert told(cli("forget", "--grant", "g1", *ASKED, "--json"), status=1)["left"]["batches"] == 1
        assert b"marked" in everything(ledger)
        ledger.finish(claimed)
        told(cli("forget", "--grant", "g1", *ASKED, "--json"))
        assert b"marked" not in everything(ledger)

    def test_ends_a_walk_and_gives_up_what_it_has_found(self, ledger: Ledger, cli: Cli) -> None:
        ledger.clock.at = clock.now()
        batch = ledger.queue.modify_matching("g1", Query(from_="marked@example.com"), unread=True)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        brought = Page(("m1", "m2"), b"any_email=marked@example.com", "text/plain")
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", page=brought), ends=[end(claimed)])
        assert len(ledger.rows(schema.found)) == 2
        assert told(cli("forget", "--grant", "g1", *ASKED, "--json"))["cancelled"] == 1
        assert ledger.rows(schema.found) == []
        assert b"marked" not in everything(ledger)
        assert ledger.queue.batch(batch.id).cancelled_at is not None

    def test_cancels_what_may_have_gone_out_into_doubt(self, ledger: Ledger, cli: Cli) -> None:
        job = called(ledger, Event.RETURN, sent="maybe")
        seen = told(cli("forget", "--grant", "g1", *ASKED, "--json"), status=1)
        assert (seen["cancelled"], seen["left"]["in_doubt"]) == (1, 1)
        assert ledger.state(job) is State.IN_DOUBT

    def test_of_a_dry_run_changes_nothing_and_counts_the_same(self, ledger: Ledger, cli: Cli) -> None:
        called(ledger, Event.ACCEPT)
        ledger.queue.send("g1", MARKED)
        before = everything(ledger)
        would = told(cli("forget", "--grant", "g1", *ASKED, "--dry-run", "--json"))
        assert everything(ledger) == before
        assert would | {"dry_run": False} == told(cli("forget", "--grant", "g1", *ASKED, "--json"))

    def test_is_written_down_with_author_and_reason(self, ledger: Ledger, cli: Cli) -> None:
        called(ledger, Event.ACCEPT)
        cli("forget", "--grant", "g1", *ASKED)
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.grant_id, event.by, event.reason) == ("forget", "g1", "anna", "she asked for it")

    def test_refuses_an_address_without_repeating_it(self, ledger: Ledger, cli: Cli) -> None:
        status, out, err = cli("forget", "--grant", "leyah@example.com", *ASKED)
        assert (status, out) == (2, "")
        assert "pass the grant's id" in err
        assert "leyah" not in err

    def test_of_an_unknown_grant_fails(self, ledger: Ledger, cli: Cli) -> None:
        status, _, err = cli("forget", "--grant", "g1", *ASKED)
        assert status == 1
        assert "no job of this grant" in err
        assert ledger.rows(schema.event) == []

    def test_speaks_to_people(self, ledger: Ledger, cli: Cli) -> None:
        called(ledger, Event.DOUBT, sent="maybe")
        ledger.queue.send("g1", MARKED, key="k")
        status, out, _ = cli("forget", "--grant", "g1", *ASKED)
        assert status == 1
        assert out.splitlines() == [
            "1 waiting job cancelled; 1 job erased",
            "1 key kept, so that a repeat sends no second mail",
            "left: 1 in doubt, which may have been sent; resolve them, then run this again",
        ]


class TestADeadLetterThatWasForgotten:
    @pytest.mark.parametrize("operation", ["send", "modify"])
    def test_is_not_retried(self, ledger: Ledger, cli: Cli, operation: str) -> None:
        if operation == "send":
            job = called(ledger, Event.GIVE_UP)
        else:
            ledger.clock.at = clock.now()
            (job,) = ledger.modify("g1", ["m1"])
            ledger.clock.advance(1)
            claimed = ledger.serve()
            ledger.record(outcome(claimed, claimed.jobs[0], Event.GIVE_UP), ends=[end(claimed)])
        cli("forget", "--grant", "g1", *ASKED)
        now = ledger.clock()
        with ledger.writing() as connection:
            found = retrying.retry(connection, DeadLetterSelection(), after=None, first_at=now, by="anna", now=now)
        assert (found.ready, found.refused) == ([], {job: RetryRefusal.FORGOTTEN})

    def test_has_its_words_on_the_command_line(self) -> None:
        assert RetryRefusal.FORGOTTEN.value in retry.REFUSED
