"""What the linter checks: circles of imports are named, and what calls itself pure is inside its contract."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp

from tests.support.circles import circles


def graph_of(*imports: tuple[str, str]) -> grimp.ImportGraph:
    graph = grimp.ImportGraph()
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    return graph


class TestCirclesOfImports:
    def test_are_named_module_by_module(self) -> None:
        graph = graph_of(("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"))
        assert circles(graph) == [["a", "b", "c", "a"]]

    def test_are_each_named_once(self) -> None:
        graph = graph_of(("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"))
        assert circles(graph) == [["a", "b", "a"], ["b", "c", "b"]]

    def test_are_none_where_two_ways_lead_to_one_module(self) -> None:
        assert circles(graph_of(("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"))) == []


ROOT = Path(__file__).parents[2]


def modules_that_say_pure() -> Iterator[str]:
    for package in ("sendq", "tasks", "worker", "settings"):
        for path in (ROOT / package).rglob("*.py"):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if re.search(r"\bPure\b", said):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


class TestModulesThatSayPure:
    def test_are_in_the_contract_that_checks_it(self) -> None:
        config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
        [contract] = [one for one in config["contracts"] if one["name"].startswith("The pure core")]
        checked = tuple(contract["source_modules"])
        said = list(modules_that_say_pure())
        assert "tasks.policy.decide" in said
        assert [name for name in said if not f"{name}.".startswith(tuple(f"{one}." for one in checked))] == []
