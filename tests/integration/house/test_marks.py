"""Nothing private leaves its place: marked content goes every way there is, and is then looked for everywhere.

The marks stand in what people write (addresses, names, subjects, bodies, metadata, headers, folders), and in every
secret (API key, webhook secret, passwords of Redis and PostgreSQL, encryption key). With an encryption key they must
not be readable in the ledger either. Keys of jobs are the exception: they are stored as the application wrote them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from sqlalchemy import make_url

from sendq import Attachment, InvalidJob, KeyConflict, Message, SendqError, SendQueue, State, Unreadable, Vault
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from sendq.simulator import Fault
from sendq.vault import new_key
from settings import Settings, SettingsError
from tests.integration.processes.test_sentry import Ingest, ingest
from tests.support.commands import bare_environment
from tests.support.flower import child, free_port
from tests.support.servers import PgServer
from tests.support.system import ROOT, System, running
from tests.support.waiting import LIMIT_S, eventually

__all__ = ["ingest"]

KEYS = new_key("mark")

# What people wrote, by where it stands.
WRITTEN = {
    "address": "markaddress", "name": "markname", "subject": "marksubject", "body": "markbody",
    "metadata": "markmetadata", "header": "markheader", "folder": "markfolder", "filename": "markfilename",
}  # fmt: skip
SECRETS = {
    "API key": "nyk_markapikey", "webhook secret": "markwebhook", "Redis password": "markredis",
    "PostgreSQL password": "markpostgres", "encryption key": KEYS.partition(":")[2],
}  # fmt: skip
JOB_KEY = "markjobkey"
# A file travels as base64, and the simulator keeps its digest alone.
FILE = {"file": "markcontent"}
MARKS = {**WRITTEN, **FILE, **SECRETS, "key of a job": JOB_KEY}

# What a worker meets in some turns: exceptions that quote what they were given, as those of libraries do.
BUGS = """
from pathlib import Path
import tasks.turn, worker.serving.intake
facts, claim, claims = tasks.turn._Turn._facts, worker.serving.intake.Intake._claim, []

def broken_facts(turn, job, begun_at):
    if b"break this turn" in bytes(job.body):
        raise RuntimeError(f"cannot make sense of {bytes(job.body)!r} with nyk_markapikey")
    return facts(turn, job, begun_at)

def broken_claim(intake, names, **options):
    claims.append(names)
    if len(claims) == 1:
        raise RuntimeError((Path(__file__).parent / "words").read_text())
    return claim(intake, names, **options)

tasks.turn._Turn._facts, worker.serving.intake.Intake._claim = broken_facts, broken_claim
"""


def marked(to: str = "plus", *, body: str = "") -> Message:
    """A message with every mark in it; ``to`` is what the simulator goes by."""
    return Message(
        to=[{"email": f"{to}+markaddress@mark.example", "name": "markname"}],
        subject="marksubject",
        body=f"<p>markbody {body}</p>",
        metadata={"key2": "markmetadata"},
        custom_headers=[{"name": "X-Mark", "value": "markheader"}],
        attachments=[Attachment(filename="markfilename.txt", content=b"markcontent")],
    )


class Places:
    """Everything that was said somewhere, by the place."""

    def __init__(self) -> None:
        self.said: dict[str, list[bytes]] = {}

    def add(self, place: str, text: str | bytes) -> None:
        self.said.setdefault(place, []).append(text.encode() if isinstance(text, str) else text)

    def found(self, marks: dict[str, str]) -> list[str]:
        """Each mark that is somewhere, with the place and the text around it."""
        return [
            f"{name} in {place}: {text[max(0, at - 80) : at + 40]!r}"
            for place, texts in self.said.items()
            for text in texts
            for name, mark in marks.items()
            if (at := text.find(mark.encode())) >= 0
        ]


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.long), "postgresql"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    if request.param == "sqlite":
        with running(f"sqlite:///{tmp_path}/sendq.db", tmp_path, api_key=SECRETS["API key"]) as system:
            yield system
        return
    server: PgServer = request.getfixturevalue("pg_server")
    with server.database() as name:
        url = make_url(server.url(name)).set(password=SECRETS["PostgreSQL password"])
        with running(url.render_as_string(hide_password=False), tmp_path, api_key=SECRETS["API key"]) as system:
            yield system


def locked(system: System) -> str:
    """Give Redis its password; its address with that."""
    with Redis(unix_socket_path=str(system.redis.socket_path)) as client:
        client.config_set("requirepass", SECRETS["Redis password"])
    return f"redis+socket://:{SECRETS['Redis password']}@{system.redis.socket_path}?virtual_host=0"


def client_of(system: System) -> Redis:
    return Redis(unix_socket_path=str(system.redis.socket_path), password=SECRETS["Redis password"])


@contextmanager
def monitored(system: System, places: Places) -> Iterator[None]:
    """Every command that Redis is given in the meantime, as it comes over the wire."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(str(system.redis.socket_path))
        monitor.sendall(b"AUTH markredis\r\nMONITOR\r\n")
        seen = monitor.makefile("rb")
        assert (seen.readline(), seen.readline()) == (b"+OK\r\n", b"+OK\r\n")

        def watch() -> None:
            for line in seen:
                places.add("a command to Redis", line)
                if b"the end of it" in line:
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        yield
        with client_of(system) as client:
            client.echo("the end of it")
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_no_mark_is_anywhere_but_in_the_requests(system: System, tmp_path: Path, ingest: Ingest) -> None:
    places = Places()
    secrets = {
        "NYLAS_API_KEY": SECRETS["API key"],
        "NYLAS_WEBHOOK_SECRET": SECRETS["webhook secret"],
        "REDIS_URL": locked(system),
        "SENDQ_ENCRYPTION_KEYS": KEYS,
        "SENTRY_DSN": ingest.dsn,
    }
    metrics = f"127.0.0.1:{free_port()}"
    reports = {"SENDQ_METRICS_ADDRESS": metrics, "SENTRY_TRACES_SAMPLE_RATE": "1"}
    shorter = {"SENDQ_ANNOUNCE_AFTER_S": "0", "SENDQ_UNCLAIMED_AFTER_S": "2.5", "SENDQ_LOG_LEVEL": "DEBUG"}
    system.queue = SendQueue(system.engine, vault=Vault.parse(KEYS))
    with monitored(system, places), flower(system, secrets, places):
        go_every_way(system, tmp_path, secrets | shorter | reports)
        eventually(lambda: "dead_letter" in str(ingest.fingerprints()), "an envelope at Sentry")
        look_at_processes(places)
        places.add("metrics", read(f"http://{metrics}/metrics"))
        places.add("Redis", everything_in_redis(system))
    commands(system, secrets, places)
    errors(system, places)
    for worker in system.workers:
        places.add("a worker's log", worker.said())
    for envelope in ingest.envelopes:
        places.add("a report to Sentry", envelope)
    for path in sorted((tmp_path / "redis").rglob("*")):
        if path.is_file():
            places.add("a file of Redis", path.read_bytes())
    assert_the_bugs_happened(system, ingest)
    for name, mark in WRITTEN.items():
        assert any(mark in str(one.body) for one in system.api.requests), f"{name} went nowhere"
    assert {
        "a command to Redis",
        "Flower",
        "metrics",
        "a command's output",
        "an error",
        "a process",
    } < places.said.keys()
    # Operators find jobs by the keys of the application, so their lists show them.
    shown = [line for line in places.found(MARKS) if not line.startswith("key of a job in a command's output")]
    assert "\n".join(shown) == ""
    in_the_ledger = Places()
    look_at_ledger(system, in_the_ledger)
    assert "\n".join(in_the_ledger.found({**WRITTEN, **FILE, **SECRETS})) == ""
    assert in_the_ledger.found({"key of a job": JOB_KEY})  # which shows that the search finds what is there


def go_every_way(system: System, tmp_path: Path, settings: dict[str, str]) -> None:
    """Success, each route, an unknown outcome, a killed worker, a bug in a turn and one outside of any."""
    (tmp_path / "bugs").mkdir()
    (tmp_path / "bugs" / "sitecustomize.py").write_text(BUGS)
    (tmp_path / "bugs" / "words").write_text(" ".join(MARKS.values()))
    quoting = "cannot deliver to plus+markaddress@mark.example"
    api, queue = system.api, system.queue
    api.will(Fault.status(503, message=quoting, kept="nothing"), grant="retry", times=1)
    api.will(Fault.status(429, message=quoting, headers={"Retry-After": "600"}), grant="requeue", times=None)
    api.will(Fault.status(418, message=quoting), grant="odd", times=None)
    api.will(Fault.drop(accepted=True, kept="outcome"), grant="drop", times=1)
    api.will(Fault.slow(5.0), grant="slow", times=1)
    api.grant("closed", status="invalid")
    system.start_worker("-E", **settings, PYTHONPATH=f"{tmp_path / 'bugs'}{os.pathsep}{ROOT}")
    ways = ("open", "retry", "drop", "requeue", "closed", "odd")
    jobs = {way: queue.send(way, marked(), key=f"{JOB_KEY}-{way}").id for way in ways}
    jobs["bad"] = queue.send("open", marked("bad")).id
    jobs["partly"] = queue.send("open", marked("reject")).id
    jobs["bug"] = queue.send("bug", marked(body="break this turn")).id
    batch = queue.modify("open", ["m1", "m2"], folders=["markfolder"], metadata={"key2": "markmetadata"})
    wanted = {
        "open": State.SENT, "retry": State.SENT, "drop": State.SENT, "odd": State.DEAD, "bad": State.DEAD,
        "partly": State.DEAD, "bug": State.IN_DOUBT,
    }  # fmt: skip
    for way, state in wanted.items():
        eventually(partial(is_in, system, jobs[way], state), f"{way}: {state.value}")
    for way, reason in (("requeue", "held"), ("closed", "reauth")):
        eventually(partial(waits, system, jobs[way], reason), way)
    eventually(lambda: queue.batch(batch.id).progress == 1, "the batch's end")
    slow = queue.send("slow", marked()).id
    eventually(partial(is_in, system, slow, State.SENDING), "a call on the wire")
    system.workers[0].kill()
    system.start_worker("-E", **settings)
    eventually(partial(is_in, system, slow, State.SENT), "the job of the killed worker")


def is_in(system: System, job: str, state: State) -> bool:
    return system.state(job) is state


def waits(system: System, job: str, reason: str) -> bool:
    return system.queue.why(job).reason == reason


def assert_the_bugs_happened(system: System, ingest: Ingest) -> None:
    """Or their words were looked for in vain."""
    log = system.workers[0].said()
    assert "RuntimeError: (text withheld" in log
    assert "claim_failed" in log
    assert "RuntimeError" in "".join(ingest.envelopes) or "bug" in "".join(ingest.envelopes)


@contextmanager
def flower(system: System, secrets: dict[str, str], places: Places) -> Iterator[None]:
    """Flower beside it, and what its pages say at the end."""
    port = free_port()
    environ = system.environ(REDIS_URL=secrets["REDIS_URL"], FLOWER_UNAUTHENTICATED_API="true")
    for name in ("DATABASE_URL", "NYLAS_API_KEY"):
        del environ[name]
    log = system.directory / "flower.log"
    command = [sys.executable, "-m", "celery", "-A", "worker", "flower", "--address=127.0.0.1", f"--port={port}"]

    def page(path: str) -> str:
        with suppress(OSError):
            return read(f"http://127.0.0.1:{port}{path}")
        return ""

    with child(command, environ, log):
        eventually(lambda: page("/api/task/types"), "Flower's first answer")
        yield
        eventually(lambda: "sendq.send" in page("/api/tasks"), "the tasks in Flower")
        for path in ("/api/tasks", "/api/workers?refresh=1", "/api/queues/length", "/metrics", "/workers", "/broker"):
            places.add("Flower", page(path))
    places.add("Flower", log.read_bytes())


def read(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
        return str(answer.read().decode())


def look_at_processes(places: Places) -> None:
    """The command line of every process that this test has started."""
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            places.add("a process", " ".join(each.cmdline()))


def everything_in_redis(system: System) -> str:
    """Every key with its value."""
    readers = {"string": "get", "hash": "hgetall", "set": "smembers"}
    said = []
    with client_of(system) as client:
        for key in client.scan_iter():
            kind = client.type(key).decode()
            if kind in readers:
                value = getattr(client, readers[kind])(key)
            else:
                value = client.lrange(key, 0, -1) if kind == "list" else client.zrange(key, 0, -1)
            said.append(f"{key} {value}")
    return "\n".join(said)


def commands(system: System, secrets: dict[str, str], places: Places) -> None:
    """What the command line says, to people and to programs."""
    environ = bare_environment(DATABASE_URL=system.ledger_url, NYLAS_API_URI=system.api.url, **secrets)
    with reading(system.engine) as connection:
        jobs = [str(job) for job in connection.execute(schema.job.select()).scalars()]
    lines = [["status"], ["jobs"], ["grants"], ["events"], ["settings"], ["check"], ["rekey"], ["policy"]]
    lines += [["why", job] for job in jobs[:12]]
    lines += [["forget", "--grant", grant, "--reason", "asked", "--dry-run"] for grant in ("open", "requeue")]
    lines += [["dead"], ["dead", "--rule", "bad_request"], ["deliveries"], ["cancel", jobs[0], "--dry-run"]]
    lines += [["jobs", "--grant", "a+markaddress@mark.example"], ["dead", "--grant", "a+markaddress@mark.example"]]
    lines += [["retry", "--rule", "bad_request", "--dry-run"], ["forget", "--grant", "a+markaddress@mark.example"]]
    program = "import json, sys; from worker.cli.main import main; [main(line) for line in json.loads(sys.argv[1])]"
    both = [line + form for line in lines for form in ([], ["--json"])]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(both)],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    places.add("a command's output", done.stdout)
    places.add("a command's output", done.stderr)
    assert "Traceback" not in done.stderr
    assert all(word in done.stdout for word in ("in_doubt", "reauth", "encryption"))


def errors(system: System, places: Places) -> None:
    """What a caller's exception says, and a setting's."""

    def fails(kind: type[SendqError], call: Any) -> None:
        with pytest.raises(kind) as raised:
            call()
        places.add("an error", f"{raised.value} {raised.value!r} {raised.value.args}")

    queue, key = system.queue, f"{JOB_KEY}-open"
    bad = Message(to=["markaddress at mark.example", f"markaddress{'x' * 80}@mark.example"], subject="marksubject\x00",
                  body="markbody\x00", metadata={"markmetadata": "markmetadata"})  # fmt: skip
    fails(InvalidJob, lambda: queue.send("markaddress@mark.example", bad))
    fails(KeyConflict, lambda: queue.send("open", marked("other"), key=key))
    fails(Unreadable, lambda: SendQueue(system.engine).send("open", marked(), key=key))
    for name, value in {
        "REDIS_URL": "redis://:markredis@host:port", "DATABASE_URL": "oracle://me:markpostgres@host/db",
        "SENDQ_ENCRYPTION_KEYS": KEYS + "!", "NYLAS_API_KEY": "nyk_markapikey and more",
        "NYLAS_WEBHOOK_SECRET": "markwebhook and more",
    }.items():  # fmt: skip
        with pytest.raises(SettingsError) as raised:
            Settings.load({name: value})
        places.add("an error", f"{raised.value} {raised.value!r}")
    settings = Settings.load({
        "NYLAS_API_KEY": "nyk_markapikey", "NYLAS_WEBHOOK_SECRET": "markwebhook", "SENDQ_ENCRYPTION_KEYS": KEYS,
        "REDIS_URL": "redis://:markredis@host", "DATABASE_URL": "postgresql://me:markpostgres@host/db",
    })  # fmt: skip
    places.add("an error", f"{settings!r} {settings} {settings.vault!r} {queue.__dict__}")


def look_at_ledger(system: System, places: Places) -> None:
    """Each value of each row, and on SQLite the files as they lie on the disk."""
    with reading(system.engine) as connection:
        for table in schema.metadata.sorted_tables:
            for row in connection.execute(table.select()):
                for value in row:
                    places.add(table.name, bytes(value) if isinstance(value, bytes | memoryview) else str(value))
    for path in system.directory.glob("sendq.db*"):
        places.add(path.name, path.read_bytes())
