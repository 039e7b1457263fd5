"""Whatever the Python API says about what HTTP passes to it has JSON's words there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from sendq.api.wording import WORDS, in_json
from sendq.errors import Problem
from sendq.messages.from_json import UNKNOWN

# Words of Python, and names in it: of classes, and of methods with their arguments.
PYTHON = re.compile(
    r"\b(None|True|False|bool|str|int|dicts?|tuple|iterable|mapping|generator|timedelta|NEVER|callable)\b"
    r"|\bdatetime\b|sendq\.[A-Z]|\w\([\w=\"'\[]*[=…)]|\w='|\b[A-Z][a-z]+[A-Z][a-z]\w*|\b(in|from)_\b|_matching"
)
ROOT = Path(__file__).parents[2] / "sendq"
READ = (
    "enqueueing", "messages", "rules/after.py", "rules/tags.py", "rules/windows.py", "rules/suppression.py",
    "ledger/undoing.py", "ledger/batch_sends.py", "ledger/replacing.py", "ledger/batches.py", "ledger/waiting_jobs.py",
    "changes.py", "filter_checks.py", "signing.py", "scope.py",
)  # fmt: skip
# What JSON cannot express, and so nobody can do wrong there; what only programs and operators may call.
NOT_IN_JSON = re.compile(
    r"sendq\.(Send|Message|MimeMessage|NewBatch|Query)\b|create one: (Send|Message|NewBatch|Query)\(|is not bytes"
    r"|(datetime|time) object|is not an iterable|a list or a generator|does not return bytes|rb'|seek\(0\)|is immutable"
)


@cache
def texts() -> dict[str, str]:
    """Every text that may be a part of a problem, and where it is."""
    found = {}
    for name in READ:
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree = ast.parse(file.read_text())
            documents = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in (one for one in ast.walk(tree) if isinstance(one, ast.expr)):
                text = ""
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents:
                    text = node.value
                elif isinstance(node, ast.JoinedStr):
                    parts = [str(one.value) if isinstance(one, ast.Constant) else "Xyz" for one in node.values]
                    text = re.sub("(Xyz)+", "Xyz", "".join(parts))
                if " " in text and text[:1].islower() and "\n" not in text:
                    found[text] = f"{file.name}:{node.lineno}"
    return found


def test_no_problem_has_words_of_python() -> None:
    assert len(texts()) > 200
    wrong = {where: said for text, where in texts().items() if (said := _wrong(text)) is not None}
    assert wrong == {}


def _wrong(text: str) -> str | None:
    said = in_json(Problem("", "", text)).remedy
    return said if PYTHON.search(said) and not NOT_IN_JSON.search(text) else None


@pytest.mark.parametrize("pattern", [one for one, _ in WORDS], ids=[one.pattern for one, _ in WORDS])
def test_every_pattern_is_in_a_problem(pattern: re.Pattern[str]) -> None:
    assert any(map(pattern.search, texts()))


@pytest.mark.parametrize(
    ("field", "named"),
    [("query.in_", "query.in"), ("from_", "from"), ("from_[0].email", "from[0].email"), ("tags.from_x", "tags.from_x"),
     ("", ""), ("sign_in_at", "sign_in_at")],
)  # fmt: skip
def test_fields_have_their_names_in_json(field: str, named: str) -> None:
    assert in_json(Problem(field, "is missing", "set it")).field == named
    assert in_json(Problem(field, *UNKNOWN)).field == field
