"""The commands that read and change a ledger, and what they say when there is none to be had."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sendq import Query, SendQueue, clock
from sendq.clock import SECOND
from sendq.ids import new_id
from sendq.ledger import batches
from sendq.ledger.db.engine import open_engine
from sendq.ledger.dispatching import workers
from sendq.rules.states import Event
from tests.support.commands import Cli, Result, bare_environment
from tests.support.ledger import MESSAGE, Ledger, end, outcome
from tests.support.processes import running
from tests.support.waiting import LIMIT_S, eventually

ROOT = Path(__file__).parents[3]
NOBODY = "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"


def run_process(*arguments: str, **environment: str) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        cwd=ROOT,
        env=bare_environment(**environment),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def on_a_terminal(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command in a session on a terminal of its own, 80 by 24, and the other end of that."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", *arguments],
        cwd=ROOT,
        env=bare_environment(TERM="xterm", **environment),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    try:
        yield process, screen
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def as_json(result: Result) -> Any:
    status, out, err = result
    assert (status, err) == (0, "")
    return json.loads(out)


class TestStatus:
    def test_it_counts_jobs_and_lanes(self, cli: Cli, ledger: Ledger) -> None:
        ledger.send("a")
        ledger.send("b")
        ledger.absorb()
        ledger.set_lane("b", closed_at=ledger.clock(), closed_rule="expired")
        seen = as_json(cli("status", "--json"))
        assert seen["jobs"]["queued"] == 2
        assert seen["lanes"] == {"total": 2, "served": 0, "waiting": 1, "held": 0, "closed": 1}
        assert [hold["grant_id"] for hold in seen["holds"]] == ["b"]

    def test_what_is_held_beyond_the_first_twenty_is_grouped_and_not_left_out(self, cli: Cli, ledger: Ledger) -> None:
        for number in range(25):
            ledger.send(f"g{number}")
        ledger.absorb()
        for number in range(25):
            ledger.set_lane(f"g{number}", closed_at=ledger.clock(), closed_rule="expired")
        status, out, _ = cli("status")
        assert status == 0
        (group,) = [line for line in out.splitlines() if line.startswith("expired")]
        assert group.split()[1:] == ["unknown", "sign-in", "needed", "25", "25", *group.split()[-4:]]
        assert "each of these grants: sendq grants --rule RULE --provider PROVIDER\n" in out

    def test_for_people_it_says_what_is_held_and_that_nobody_works(self, cli: Cli, ledger: Ledger) -> None:
        ledger.send("grant-7")
        ledger.absorb()
        ledger.set_lane("grant-7", closed_at=ledger.clock(), closed_rule="expired")
        status, out, err = cli("status")
        assert (status, err) == (0, "")
        assert "grant grant-7" in out
        assert "its owner signs in again" in out
        assert "sendq worker" in out

    def test_it_says_how_long_jobs_wait_and_how_many_calls_are_made(self, cli: Cli, ledger: Ledger) -> None:
        ledger.send("a")
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN), ends=[end(claimed)])
        seen = as_json(cli("status", "--json"))
        assert seen["calls"] == {"retry": 1}
        assert seen["oldest_s"]["normal"] > 60  # the test's ledger keeps a time of its own
        out = cli("status")[1]
        assert "calls in the last minute: 1 (0.0/s); of these 1 retry" in out
        assert "s (normal priority)" in out

    def test_it_goes_on_until_it_is_interrupted_when_it_is_asked_to(self, ledger: Ledger, tmp_path: Path) -> None:
        url = ledger.engine.url.render_as_string(hide_password=False)
        with running(["status", "--watch", "0.2", "--json"], tmp_path, DATABASE_URL=url) as watching:
            first, second = (json.loads(watching.line_with('"jobs"')) for _ in range(2))
            assert watching.interrupt() == 130
        assert first["at"] < second["at"]

    def test_on_a_terminal_each_look_begins_at_the_top_and_ctrl_c_ends_it(self, sqlite_ledger_url: str) -> None:
        with on_a_terminal("status", "--watch", "0.2", DATABASE_URL=sqlite_ledger_url) as (watching, screen):
            said = ""
            while said.count("\x1b[H\x1b[2J") < 3:
                said += os.read(screen, 65536).decode()
            second = said.split("\x1b[H\x1b[2J")[2]
            os.write(screen, b"\x03")
            assert watching.wait(LIMIT_S) == 130
        assert "in_doubt" in second
        assert second.rstrip().endswith("sendq worker")
        assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()) for line in second.splitlines()) <= 80

    def test_it_goes_on_while_the_ledger_is_away(self, ledger: Ledger, tmp_path: Path) -> None:
        if ledger.engine.dialect.name != "postgresql":
            return
        name = str(ledger.engine.url.database)
        url = ledger.engine.url.render_as_string(hide_password=False)

        def let_in(allowed: bool) -> None:
            elsewhere = open_engine(ledger.engine.url.set(database="postgres"))
            with elsewhere.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}"))
                others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                connection.execute(text(others), {"name": name})
            elsewhere.dispose()

        with running(["status", "--watch", "0.2", "--json"], tmp_path, DATABASE_URL=url) as watching:
            watching.line_with('"jobs"')
            try:
                let_in(False)
                eventually(lambda: "the ledger" in watching.stderr, "a sentence about the ledger")
            finally:
                let_in(True)
            known = watching.stderr
            later = [json.loads(watching.line_with('"jobs"')) for _ in range(2)]
            assert watching.interrupt() == 130
        assert "Traceback" not in known
        assert later[0]["at"] < later[1]["at"]

    def test_it_lists_workers_and_who_leads(self, cli: Cli, ledger: Ledger) -> None:
        worker = new_id()
        with ledger.writing() as connection:
            load = workers.Load(capacity=100)
            workers.register(connection, worker, name="w1", pid=7, version="0", load=load, now=ledger.clock())
            workers.lead(connection, worker, now=2**60, lease=SECOND)
        (seen,) = as_json(cli("status", "--json"))["workers"]
        assert (seen["name"], seen["capacity"], seen["leads"]) == ("w1", 100, True)
        assert "leader" in cli("status")[1]


class TestJobs:
    def test_the_latest_come_first(self, cli: Cli, ledger: Ledger) -> None:
        ids = [str(ledger.send()) for _ in range(3)]
        assert [job["id"] for job in as_json(cli("jobs", "--json", "--limit", "2"))["items"]] == ids[:0:-1]
        out = cli("jobs")[1]
        assert [line.split()[0] for line in out.splitlines()[1:]] == ids[::-1]

    def test_state_and_grant_narrow_the_list(self, cli: Cli, ledger: Ledger) -> None:
        sent = ledger.send("a")
        ledger.send("a")
        ledger.set_job(ledger.send("b"), state="sent")
        ledger.set_job(sent, state="sent")
        found = as_json(cli("jobs", "--json", "--state", "sent", "--state", "dead", "--grant", "a"))
        assert [job["id"] for job in found["items"]] == [str(sent)]

    def test_a_state_that_does_not_exist_is_a_usage_error(self, cli: Cli) -> None:
        status, out, err = cli("jobs", "--state", "done")
        assert (status, out) == (2, "")
        assert "in_doubt" in err


class TestWhy:
    def test_it_says_why_and_what_happened_so_far(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send(key="invoice-42")
        claimed = ledger.serve()
        ledger.record(begins=[(claimed, job)])
        ledger.record(outcome(claimed, claimed.jobs[0], Event.GIVE_UP, rule="bad_request"))
        seen = as_json(cli("why", str(job), "--json"))
        assert (seen["state"], seen["rule"]) == ("dead", "bad_request")
        assert [attempt["status"] for attempt in seen["job"]["trail"]] == [503]
        assert as_json(cli("why", "--key", "invoice-42", "--json")) == seen
        out = cli("why", str(job))[1]
        assert "given up" in out
        assert "bad_request" in out

    def test_it_tells_what_to_do_about_the_rule_that_decided(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(begins=[(claimed, job)])
        ledger.record(outcome(claimed, claimed.jobs[0], Event.GIVE_UP, rule="bad_request"))
        assert as_json(cli("why", str(job), "--json"))["remedy"].startswith("Fix the payload")
        out = cli("why", str(job))[1]
        assert "remedy: Fix the payload" in out
        assert f"retry: sendq retry {job} --dry-run" in out

    def test_it_tells_who_holds_what_it_waits_for_and_with_which_words(self, cli: Cli, ledger: Ledger) -> None:
        ledger.clock.at = clock.now()
        job = str(ledger.send("g1", provider="google"))
        ledger.absorb()
        scopes = (["--grant", "g1"], ["--provider", "google"], ["--whole-application"])
        for hours, scope in enumerate(scopes, 1):
            cli("hold", *scope, "--for", f"{hours}h", "--reason", "an earlier one", "--by", "ben")
            cli("release", *scope, "--reason", "r")
            cli("hold", *scope, "--for", f"{hours}h", "--reason", f"for {scope[0]}", "--by", "anna")
            seen = as_json(cli("why", job, "--json"))
            assert (seen["by"], seen["note"]) == ("anna", f"for {scope[0]}")
            assert f"rule: by_hand (by anna: for {scope[0]})" in cli("why", job)[1]

    def test_no_such_job_is_one_sentence_and_status_1(self, cli: Cli) -> None:
        for given in (NOBODY, "not-an-id"):
            status, out, err = cli("why", given)
            assert (status, out, err.count("\n")) == (1, "", 1)

    def test_a_job_is_named_by_id_or_key_and_not_by_both(self, cli: Cli) -> None:
        assert cli("why")[0] == 2
        assert cli("why", NOBODY, "--key", "k")[0] == 2


class TestBatch:
    def test_it_says_how_far_it_is(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify("a", ["m1", "m2"], unread=False, key="tidy")
        seen = as_json(cli("batch", batch.id, "--json"))
        assert (seen["total"], seen["waiting"], seen["progress"]) == (2, 2, 0)
        assert "0.0% done" in cli("batch", "--key", "tidy")[1]
        assert cli("batch", NOBODY)[0] == 1

    def test_it_shows_a_walk_and_the_first_errors(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify_matching("a", Query(unread=True), unread=False)
        assert "walk: listing messages; 0 messages on 0 pages" in cli("batch", batch.id)[1]
        claimed = ledger.serve()
        died = outcome(claimed, claimed.jobs[0], Event.GIVE_UP, rule="server_error")
        ledger.record(died._replace(attempt=died.attempt and died.attempt._replace(error="it is down")))
        out = cli("batch", batch.id)[1]
        assert "walk: stopped" in out
        assert "(a page of its walk): server_error: it is down" in out
        assert as_json(cli("batch", batch.id, "--json"))["walk"]["state"] == "stopped"

    def test_watched_it_says_what_changes_until_it_has_ended(
        self, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = ledger.queue.modify("a", ["m1", "m2"], unread=False)

        def work(_: float) -> None:
            """Instead of a pause, something happens."""
            ledger.clock.advance(1)
            if ledger.queue.batch(batch.id).waiting:
                ledger.finish(ledger.serve(jobs_each=1))
            else:
                with ledger.writing() as connection:
                    batches.finish_batches(connection, now=ledger.clock(), limit=10)

        monkeypatch.setattr("time.sleep", work)
        status, out, _ = cli("batch", batch.id, "--watch")
        said = out.splitlines()
        assert said[:3] == ["0.0% done, 2 waiting", "50.0% done, 1 waiting", "100.0% done, 0 waiting"]
        assert status == 0
        assert "finished: " in said[-1]

    def test_watched_to_an_end_that_is_not_what_was_wanted_is_status_1(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify("a", ["m1"], unread=False)
        ledger.queue.cancel_batch(batch.id)
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=10)
        status, out, _ = cli("batch", batch.id, "--watch", "--json")
        assert status == 1
        assert json.loads(out)["counts"] == {"cancelled": 1}


class TestCancel:
    def test_a_job_that_waits_is_cancelled(self, cli: Cli, ledger: Ledger) -> None:
        job = str(ledger.send())
        cancelled = {"job_id": job, "state": "cancelled", "dry_run": False}
        assert as_json(cli("cancel", job, "--dry-run", "--json")) == cancelled | {"dry_run": True}
        assert ledger.queue.job(job).state == "queued"
        assert as_json(cli("cancel", job, "--json")) == cancelled
        assert ledger.queue.job(job).state == "cancelled"

    def test_a_job_that_others_follow_is_cancelled_with_a_word_on_them(self, cli: Cli, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first))
        ledger.send(after=str(second))
        said = cli("cancel", str(first), "--dry-run")[1]
        assert "jobs that follow it, and end with it: 2" in said
        assert as_json(cli("cancel", str(first), "--json"))["followers"] == 2
        assert f"it waits for job {first} to be sent" in cli("why", str(second))[1]

    def test_who_did_it_and_why_is_kept_if_there_was_something_to_do(self, cli: Cli, ledger: Ledger) -> None:
        job, batch = str(ledger.send()), ledger.queue.modify("a", ["m1", "m2"], unread=False)
        ledger.absorb()
        for what in ([job], ["--batch", batch.id]):
            for dry in ([], ["--dry-run"], []):
                cli("cancel", *what, "--reason", "sent by mistake", "--by", "anna", *dry)
        assert [
            (one["kind"], one["job_id"], one["batch_id"], one["grant_id"], one["by"], one["reason"])
            for one in as_json(cli("events", "--json"))["items"]
        ] == [
            ("cancel", None, batch.id, "a", "anna", "sent by mistake"),
            ("cancel", job, None, "g1", "anna", "sent by mistake"),
        ]
        assert f"grant a: batch {batch.id}" in cli("events")[1]

    def test_a_batch_is_counted_first(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify("a", ["m1", "m2"], unread=False)
        assert "2 would be cancelled" in cli("cancel", "--batch", batch.id, "--dry-run")[1]
        assert as_json(cli("batch", batch.id, "--json"))["waiting"] == 2

    def test_a_batch_that_waits_is_cancelled_as_a_whole(self, cli: Cli, ledger: Ledger) -> None:
        batch = ledger.queue.modify("a", ["m1", "m2"], unread=False)
        assert as_json(cli("cancel", "--batch", batch.id, "--json"))["counts"] == {"cancelled": 2}
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=10)
        ended = ledger.queue.modify("a", ["m3"], unread=False)
        ledger.clock.advance(1)
        ledger.finish(ledger.serve())
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=10)
        status, _, err = cli("cancel", "--batch", ended.id)
        assert (status, "already ended" in err) == (1, True)
        assert cli("cancel", "--batch", NOBODY)[0] == 1
        assert cli("cancel", NOBODY, "--batch", NOBODY)[0] == 2

    def test_one_that_has_ended_is_status_1_and_says_how(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.set_job(job, state="sent")
        status, out, _ = cli("cancel", str(job))
        assert status == 1
        assert "is sent" in out

    def test_one_in_flight_says_so(self, cli: Cli, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.set_job(job, state="sending")
        status, out, _ = cli("cancel", str(job))
        assert status == 0
        assert "in flight" in out


class TestMigrate:
    def test_it_makes_the_embedded_ledger_where_it_belongs(
        self, run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SENDQ_HOME", str(tmp_path / "new" / "home"))
        assert as_json(run("migrate", "--json"))["applied"]
        assert "nothing to do" in run("migrate")[1]
        queue = SendQueue(f"sqlite:///{tmp_path}/new/home/sendq.db")
        queue.send("a", MESSAGE)
        queue.close()
        assert as_json(run("status", "--json"))["jobs"]["queued"] == 1

    def test_sql_is_printed_and_nothing_made(self, run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENDQ_HOME", str(tmp_path / "home"))
        status, out, _ = run("migrate", "--sql")
        assert status == 0
        assert "CREATE TABLE sendq_job" in out
        assert not (tmp_path / "home").exists()
        assert run("migrate", "--sql", "--json")[0] == 2


class TestCheck:
    def test_it_has_a_line_for_each_thing_and_status_2_if_one_is_missing(self, cli: Cli) -> None:
        status, out, err = cli("check")
        assert (status, err) == (2, "")
        assert any(line.startswith("ok") and "ledger" in line for line in out.splitlines())
        assert any(line.startswith("fail") and "NYLAS_API_KEY" in line for line in out.splitlines())
        items = json.loads(cli("check", "--json")[1])
        assert {"name", "state", "says", "remedy"} == set(items[0])


class TestWhenTheLedgerCannotBeUsed:
    def refused(self, run: Cli, *words: str) -> None:
        for command in (["status"], ["jobs"], ["why", NOBODY], ["batch", NOBODY], ["cancel", NOBODY]):
            status, out, err = run(*command)
            assert (status, out, err.count("\n")) == (2, "", 1)
            assert all(word in err for word in words)

    def test_looking_makes_no_file(self, run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
        self.refused(run, "sendq migrate", f"{tmp_path}/none.db", "DATABASE_URL")
        assert not (tmp_path / "none.db").exists()

    @pytest.mark.parametrize("url", ["nonsense", "mysql://127.0.0.1/x", "postgresql://hush@[::1/x"])
    def test_a_wrong_url(self, run: Cli, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        monkeypatch.setenv("DATABASE_URL", url)
        self.refused(run, "DATABASE_URL")


class TestStartingAWorker:
    def test_without_a_key_it_is_one_sentence(self, sqlite_ledger_url: str) -> None:
        status, out, err = run_process("worker", DATABASE_URL=sqlite_ledger_url, REDIS_URL="redis://127.0.0.1:1/0")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "NYLAS_API_KEY" in err

    def test_without_a_broker_it_is_one_sentence(self, sqlite_ledger_url: str) -> None:
        status, out, err = run_process("worker", DATABASE_URL=sqlite_ledger_url, NYLAS_API_KEY="k")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "REDIS_URL" in err

    def test_without_a_ledger_it_is_one_sentence(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/none.db"
        status, out, err = run_process("worker", DATABASE_URL=url, NYLAS_API_KEY="k", REDIS_URL="redis://127.0.0.1:1/0")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "sendq migrate" in err

    def test_it_becomes_the_worker_with_celerys_options(self, sqlite_ledger_url: str, redis_url: str) -> None:
        environment = bare_environment(
            DATABASE_URL=sqlite_ledger_url, NYLAS_API_KEY="k", NYLAS_API_URI="http://127.0.0.1:1", REDIS_URL=redis_url
        )
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker", "-E", "-n", "named@%h", "-l", "INFO"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert worker.stderr is not None
            assert any("named@" in line and "ready" in line for line in worker.stderr)
            worker.send_signal(signal.SIGTERM)
            worker.stderr.read()
            assert worker.wait(LIMIT_S) == 0
        finally:
            worker.kill()
            worker.communicate()

    def test_is_explained_without_any_setting(self) -> None:
        status, out, err = run_process("worker", "--help")
        assert (status, err) == (0, "")
        assert "sendq worker" in out


class TestTheSimulator:
    @pytest.mark.parametrize("given", [("--port", "99999"), ("--latency", "-1"), ("--tls", "nope", "nope")])
    def test_names_the_option_that_cannot_be_used(self, given: tuple[str, ...]) -> None:
        status, _, err = run_process("simulator", *given)
        assert status == 2
        assert given[0] in err

    def test_its_options_are_its_own(self) -> None:
        status, out, _ = run_process("simulator", "--help")
        assert status == 0
        assert "--latency" in out

    def test_it_prints_its_address_and_ends_on_ctrl_c(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "simulator", "--port", "0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            process.communicate()
