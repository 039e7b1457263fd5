"""The command line's words for what the library's errors say: each of them still replaces something."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import sendq
from worker.cli.wording import WORDS, on_command_line

PACKAGE = Path(sendq.__path__[0])


@pytest.fixture(scope="module")
def texts() -> str:
    """All texts of the library, with those of f-strings in their order."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(value for value in constants if isinstance(value, str))


@pytest.mark.parametrize(("words", "instead"), WORDS)
def test_words_of_programs_are_still_in_use_and_replaced(texts: str, words: str, instead: str) -> None:
    # A problem's field is put before its reason, and one error fills in the name of the method.
    parts = re.split(r"; |\b(?:job|batch)(?=\()", words.removeprefix("sends "))
    assert [part for part in parts if part not in texts] == []
    assert on_command_line(f"key: {words}") == f"key: {instead}"
