"""The page about security names, for each promise, a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PROMISES = [line for line in PAGE.partition("## Promises")[2].splitlines() if line.startswith("|")][2:]
TESTS = re.findall(r"`(tests/[^`]+)`", PAGE)


def names_in(path: Path) -> set[str]:
    """Its tests, as pytest names them after the file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def test_each_promise_has_a_test() -> None:
    assert len(PROMISES) >= 12
    assert [line for line in PROMISES if "`tests/" not in line] == []


@pytest.mark.parametrize("test", TESTS)
def test_every_test_exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert name.rpartition("::")[2].startswith("test_")
    assert name in names_in(ROOT / file)
