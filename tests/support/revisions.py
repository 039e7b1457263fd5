"""A later version of sendq, as far as its schema goes: the same code with one more revision."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sendq.ledger.db import migrate

ROOT = Path(__file__).parents[2]
PACKAGES = ("sendq", "sendq_worker", "settings", "tasks", "worker")

REVISION = '''"""A revision that only tests have."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
{body}
'''


def write(migrations: Path, revision: str, body: str) -> None:
    """Add a revision after the last one; ``body``: the lines of its function ``upgrade``."""
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    (migrations / "versions" / f"{revision}_later.py").write_text(
        REVISION.format(revision=revision, before=migrate.wanted(), body=indented)
    )


@contextmanager
def later_here(directory: Path, revision: str, body: str) -> Iterator[None]:
    """In this process, and for migrations alone."""
    migrations = directory / "migrations"
    shutil.copytree(ROOT / "sendq" / "ledger" / "db" / "migrations", migrations)
    write(migrations, revision, body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "_scripts", migrations)
        migrate._known.cache_clear()
        yield
    migrate._known.cache_clear()


def later_code(directory: Path, revision: str, body: str) -> Path:
    """A copy of the code, for other processes; returns the directory from which Python imports it."""
    code = directory / "code"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    write(code / "sendq" / "ledger" / "db" / "migrations", revision, body)
    return code
