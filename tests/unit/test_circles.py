"""A circle of imports is found and named."""

from __future__ import annotations

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
