"""Encryption keys of real workers: missing, given later, and changed in the middle of a drain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from sendq import Send, SendQueue, State, Vault, clock
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from sendq.ledger.operators.holds import hold_grant, release_grant
from sendq.vault import new_key
from tests.integration.commands.test_cli import run_process
from tests.support.commands import Cli, Result
from tests.support.ledger import MESSAGE, Ledger
from tests.support.servers import PgServer
from tests.support.system import System, mail, running, running_on
from tests.support.waiting import eventually

OLD, NEW = new_key("old"), new_key("new")
BOTH = f"{NEW},{OLD}"


def sealing(system: System, keys: str) -> SendQueue:
    """A web application with these keys."""
    return SendQueue(system.engine, vault=Vault.parse(keys))


class TestWithoutTheKey:
    @pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.long), "postgresql"])
    def system(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
        with running_on(request.param, request, tmp_path) as system:
            yield system

    def test_jobs_wait_and_go_when_a_worker_has_it(self, system: System) -> None:
        blind = system.start_worker()
        jobs = [sealing(system, OLD).send(grant, mail()).id for grant in ("g1", "g1", "g2")]
        open_ = system.queue.send("g3", mail()).id
        eventually(lambda: system.state(open_) is State.SENT, "a job that is not sealed")
        eventually(lambda: system.queue.why(jobs[2]).reason == "held", "the hold")
        assert "'old'" in system.queue.why(jobs[0]).says
        assert system.api.mailbox[0].grant == "g3"
        assert blind.terminate() == 0
        assert [line["encryption_key"] for line in log(blind.said(), "encryption_key_missing")][:1] == ["old"]
        system.start_worker(SENDQ_ENCRYPTION_KEYS=OLD)
        eventually(lambda: all(system.state(job) is State.SENT for job in jobs), "the sealed jobs")
        assert all(system.accepted()[job] == 1 for job in jobs)


class TestAChangeOfKeys:
    def test_in_the_middle_of_a_drain_loses_nothing_and_sends_nothing_twice(
        self, pg_server: PgServer, tmp_path: Path
    ) -> None:
        with pg_server.ledger() as url, running(url, tmp_path, latency=0.1) as system:
            system.prove()
            waits = {"by": "tests", "reason": "its jobs wait until the keys have changed"}
            with writing(system.engine) as connection:
                now = clock.now()
                hold_grant(connection, "default", "g0", until=now + 3600 * clock.SECOND, now=now, **waits)
            sends = [Send(f"g{number % 40}", mail()) for number in range(800)]
            jobs = [job.id for job in sealing(system, OLD).send_many(sends)]
            first = system.start_worker(SENDQ_ENCRYPTION_KEYS=OLD, SENDQ_CONCURRENCY="20")
            system.wait_for(State.SENT, 100)
            # Workers get the new key beside the old one, then the applications seal with it, then all is sealed anew.
            second = system.start_worker(SENDQ_ENCRYPTION_KEYS=BOTH, SENDQ_CONCURRENCY="20")
            assert first.terminate() == 0
            jobs += [job.id for job in sealing(system, BOTH).send_many(sends)]
            status, out, err = rekey(system, BOTH)
            assert (status, err) == (0, "")
            done = json.loads(out)
            assert done["sealed"] > 0
            assert (done["others"], done["unsealed"], done["unreadable"]) == ({}, 0, {})
            unfinished = len(jobs) - system.states()[State.SENT]
            assert second.terminate() == 0
            third = system.start_worker(SENDQ_ENCRYPTION_KEYS=NEW)
            with writing(system.engine) as connection:
                release_grant(connection, "default", "g0", now=clock.now(), **waits)
            system.wait_for(State.SENT, len(jobs))
            assert unfinished >= 40  # those of g0; or nothing was shown
            assert {system.accepted()[job] for job in jobs} == {1}
            assert not log(third.said(), "encryption_key_missing")


def rekey(system: System, keys: str) -> Result:
    environ = {"DATABASE_URL": system.ledger_url, "SENDQ_ENCRYPTION_KEYS": keys}
    return run_process("rekey", "--json", **environ)


def log(text: str, event: str) -> list[dict[str, str]]:
    """The lines of a log about one event."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


class TestTheCommand:
    def test_makes_a_key_that_a_vault_takes(self, run: Cli) -> None:
        status, out, _ = run("keys", "new", "2026-11")
        assert status == 0
        assert Vault.parse(out).names == ("2026-11",)
        assert run("keys", "new", "2026-11")[1] != out

    def test_refuses_a_name_with_a_remedy(self, run: Cli) -> None:
        status, _, err = run("keys", "new", "a:b")
        assert status == 2
        assert "use one like 2026-11" in err

    def test_without_keys_says_where_they_come_from(self, cli: Cli) -> None:
        status, _, err = cli("rekey")
        assert status == 2
        assert "sendq keys new" in err

    def test_reports_what_needs_which_key(self, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        SendQueue(ledger.engine, vault=Vault.parse(OLD)).send("g1", MESSAGE, key="k")
        ledger.send()
        monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS", NEW)
        status, out, err = cli("rekey")
        assert status == 1
        assert out.splitlines()[0] == "0 rows re-encrypted; encrypted with new: 0 rows"
        assert "1 row not changed: not encrypted; if they are from before there was a key, set" in err
        monkeypatch.setenv("SENDQ_ACCEPT_UNENCRYPTED", "true")
        status, out, err = cli("rekey")
        assert status == 1
        assert out.splitlines() == ["1 row re-encrypted; encrypted with new: 1 row", "encrypted with old: 2 rows"]
        assert "2 rows not changed: key 'old' is missing or wrong" in err
        monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS", BOTH)
        status, out, err = cli("rekey")
        assert (status, err) == (0, "")
        assert out.splitlines() == [
            "2 rows re-encrypted; encrypted with new: 3 rows",
            "no other key is needed: old can be removed once no web application encrypts with it",
        ]

    def test_reports_what_was_altered(self, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        SendQueue(ledger.engine, vault=Vault.parse(OLD)).send("g1", MESSAGE)
        with ledger.writing() as connection:
            connection.execute(update(schema.payload).values(content_type="text/html"))
        monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS", BOTH)
        status, out, err = cli("rekey", "--json")
        assert (status, json.loads(out)["altered"], json.loads(out)["unreadable"]) == (1, 1, {})
        assert err.strip() == "sendq: 1 row not changed: altered by something other than sendq, or damaged"

    def test_counts_first_and_keeps_who_did_it(self, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        SendQueue(ledger.engine, vault=Vault.parse(OLD)).send("g1", MESSAGE)
        monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS", BOTH)
        status, out, err = cli("rekey", "--dry-run")
        assert (status, err) == (0, "")
        assert out.splitlines() == ["nothing was changed; encrypted with new: 0 rows", "encrypted with old: 1 row"]
        assert ledger.rows(schema.event) == []
        assert cli("rekey", "--reason", "it leaked", "--by", "anna")[0] == 0
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.by, event.reason) == ("rekey", "anna", "under new: it leaked")

    def test_reads_keys_from_a_file(
        self, cli: Cli, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "keys"
        path.write_text(f"{NEW}\n{OLD}\n")
        monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS_FILE", str(path))
        assert cli("rekey")[0] == 0
        path.write_text("\n")
        assert "names a file without a key" in cli("rekey")[2]
        path.write_text("new:c2hvcnQ")
        status, _, err = cli("rekey")
        assert status == 2
        assert "has 5 bytes; it must have 32" in err
        assert "c2hvcnQ" not in err
