"""Generates `SendQueue` from the source of `AsyncSendQueue`, so that their common code is written only once.

``./dev generate`` writes the result, ``sendq/queue.py``. A unit test checks that the file is up to date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "sendq" / "async_queue.py"
RESULT = ROOT / "sendq" / "queue.py"

# Differences in the text: from the first phrase to the end of the second, and the replacement.
TEXTS = (
    ("`AsyncSendQueue`: what a web application", "runs on asyncio.", "`SendQueue`: what a web application holds."),
    (
        "`SendQueue` (`sendq/queue.py`)", "left out there.",
        "Generated from ``sendq/async_queue.py`` by ``./dev generate``: change that file, not this one.",
    ),
    (", for asyncio: the methods", "awaited.", "."),
    (
        "Every method that takes ``session``", "at the first call.",
        """\
Every method that takes ``session`` joins the transaction of a SQLAlchemy `Session` or `Connection`, or of
    ``django.db.connection`` inside ``atomic()``: if that rolls back, the call has stored nothing. One object serves
    all threads, and may be created before a fork (``gunicorn --preload``): it connects at the first call, and a child
    process opens new connections.""",
    ),
    (
        "ledger: a database URL", "of yours.",
        """\
ledger: a database URL (``postgresql://…`` for psycopg 3, ``postgresql+psycopg2://…``, ``sqlite:///sendq.db``),
            or an `Engine` of yours.""",
    ),
)  # fmt: skip

# Differences in the code: patterns and their replacements.
CODE = (
    (r".*# asyncio only\n", ""),
    (r"\nfrom sqlalchemy\.ext\.asyncio import AsyncEngine\n", "\nfrom sqlalchemy import Engine\n"),
    (r"\bAsyncEngine\b", "Engine"),
    (r"\bAsyncSendQueue\b", "SendQueue"),
    (r"\basync_transactions\b", "transactions"),
    (r"\bAsyncTransactions\b", "Transactions"),
    (r"\basync_own_list\b", "own_list"),
    (r"\bAsyncOwnList\b", "OwnList"),
    (r"\bAsyncAsk\b", "Ask"),
    (r"\basync def\b", "def"),
    (r"(?m)\bawait_only\((.*)\)$", r"\1"),
    (r"\bawait ", ""),
)


def sync_source(source: str) -> str:
    """The source of the synchronous queue, sorted and formatted by ruff.

    Raises:
        ValueError: a text to replace is not in the source, or some asyncio code is left.
    """
    rules = [(rf"(?s){re.escape(first)}.*?{re.escape(last)}", text) for first, last, text in TEXTS]
    for pattern, text in [*rules, *CODE]:
        source, count = re.subn(pattern, text, source)
        if not count:
            raise ValueError(f"{SOURCE.name} has nothing that matches {pattern!r}")
    if left := re.findall(r".*\b(?:async|await|asyncio|Async\w*)\b.*", source):
        raise ValueError(f"{SOURCE.name} has asyncio code that no rule replaces: {left}")
    return _ruff("format", text=_ruff("check", "--select=I", "--fix", text=source))


def _ruff(command: str, *options: str, text: str) -> str:
    program = [sys.executable, "-m", "ruff", command, "--quiet", f"--stdin-filename={RESULT}", *options, "-"]
    return subprocess.run(program, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


if __name__ == "__main__":
    RESULT.write_text(sync_source(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
