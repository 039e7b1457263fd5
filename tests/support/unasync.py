"""Generates `SendQueue` from the source of `AsyncSendQueue`, so that their common code is written only once.

``./dev generate`` writes the results. A unit test checks that they are up to date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "sendq"
FILES = {
    "async_queue.py": "queue.py",
    **{f"methods/async_{name}.py": f"methods/{name}.py" for name in ("bulk", "reading", "changing", "suppressing")},
}
GENERATED = "Generated from ``sendq/{}`` by ``./dev generate``: change that file, not this one."

# Differences in the text: from the first phrase to the end of the second, and the replacement.
TEXTS = (
    ("`AsyncSendQueue`: what a web application", "runs on asyncio.", "`SendQueue`: what a web application holds."),
    ("`SendQueue` (`sendq/queue.py`)", "left out there.", GENERATED.format("async_queue.py")),
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
    (r"\basync_(bulk|reading|changing|suppressing)\b", r"\1"),
    (r"\bAsync(Bulk|Reading|Changing|Suppressing)\b", r"\1"),
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


def sync_source(source: str, path: str) -> str:
    """The synchronous form of ``source``, the text of `FILES`' ``path``; sorted and formatted by ruff.

    Raises:
        ValueError: a text of the queue itself that must be replaced is missing, or some asyncio code is left.
    """
    is_queue = path == "async_queue.py"
    rules = [(rf"(?s){re.escape(first)}.*?{re.escape(last)}", text) for first, last, text in TEXTS] if is_queue else []
    for pattern, text in [*rules, *CODE]:
        source, count = re.subn(pattern, text, source)
        if is_queue and not count:
            raise ValueError(f"{path} has nothing that matches {pattern!r}")
    if not is_queue:
        source = source.replace('."""\n', f'.\n\n{GENERATED.format(path)}\n"""\n', 1)
    if left := re.findall(r".*\b(?:async|await|asyncio|Async\w*)\b.*", source):
        raise ValueError(f"{path} has asyncio code that no rule replaces: {left}")
    return _ruff(path, "format", text=_ruff(path, "check", "--select=I", "--fix", text=source))


def _ruff(path: str, command: str, *options: str, text: str) -> str:
    name = f"--stdin-filename={PACKAGE / FILES[path]}"
    program = [sys.executable, "-m", "ruff", command, "--quiet", name, *options, "-"]
    return subprocess.run(program, input=text, capture_output=True, text=True, check=True, cwd=PACKAGE.parent).stdout


if __name__ == "__main__":
    for path, result in FILES.items():
        text = sync_source((PACKAGE / path).read_text(encoding="utf-8"), path)
        (PACKAGE / result).write_text(text, encoding="utf-8")
