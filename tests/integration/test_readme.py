"""Every Python example of the README runs, as a program of its own, on a ledger that the README's own command made.

An example may lean on things that a reader has anyway (models, a configured Django); they stand here, by the words of
its first line.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.policy_file import check_policy

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

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
ASYNC = """
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
engine = create_async_engine("sqlite+aiosqlite:///sendq.db")
"""
STORED = "print(queue.job(key='invoice-42').state)"

# What stands before and after an example, by how its first line begins, and what it prints then.
AROUND = {
    "# first send": ("", "", "queued\nno worker is running; start one with: sendq worker\n0.0\n"),
    "# SQLAlchemy": (QUEUE + MODELS, STORED, "queued\n"),
    "# Django": (QUEUE + DJANGO, STORED, "queued\n"),
    "# asyncio": (QUEUE + MODELS + ASYNC, "import asyncio; asyncio.run(bill()); " + STORED, "queued\n"),
    "# bad input": (QUEUE, "", None),
    "# outcomes": ("", "print(take_in(b'', {}))", "400\n"),
    "# webhooks": ("", "print(callable(notifications))", "True\n"),
}


def examples() -> dict[str, str]:
    """The README's Python, by the beginning of the first line."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return {re.split("[:(]", block.splitlines()[0])[0].strip(): block for block in blocks}


def run(argv: list[str], directory: Path) -> str:
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with a ledger in it, made by the command that the README names."""
    command = re.search(r"^python (-m sendq migrate --url \S+)", README, re.MULTILINE)
    assert command
    run([sys.executable, *shlex.split(command[1])], tmp_path)
    return tmp_path


class TestTheReadmesRowsOfYourOwn:
    def test_can_be_used_as_they_stand(self) -> None:
        (block,) = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
        assert check_policy(block) == []


class TestTheReadmesExamples:
    def test_are_all_tried_here(self) -> None:
        assert examples().keys() == AROUND.keys()

    @pytest.mark.parametrize("name", AROUND)
    def test_run_as_they_stand(self, name: str, shop: Path) -> None:
        before, after, said = AROUND[name]
        printed = run([sys.executable, "-W", "error", "-c", f"{before}\n{examples()[name]}\n{after}"], shop)
        assert said is None or printed == said

    def test_of_bad_input_names_every_field_and_repeats_no_value(self, shop: Path) -> None:
        before, after, _ = AROUND["# bad input"]
        printed = run([sys.executable, "-c", f"{before}\n{examples()['# bad input']}\n{after}"], shop)
        assert {line.partition(" |")[0] for line in printed.splitlines()} == {"grant_id", "to[0].email", "subject"}
        assert "leyah" not in printed
