"""A contract for import-linter: no import cycles between modules. Part of ``./dev lint``.

Imports inside functions and under ``TYPE_CHECKING`` count: they hide a cycle only from Python, not from a reader. The
linter's own ``acyclic_siblings`` compares whole folders, two of which may use each other.
"""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


def circles(graph: ImportGraph) -> list[list[str]]:
    """The import cycles in a graph of modules: for each pair of modules that import each other, the shortest cycle."""
    found: dict[frozenset[str], list[str]] = {}
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            way_back = graph.find_shortest_chain(importer=imported, imported=importer)
            if way_back:
                found.setdefault(frozenset(way_back), [importer, *way_back])
    return list(found.values())


class NoCircles(Contract):
    """No import cycles among the modules of the root packages."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Whether there are none."""
        found = circles(graph)
        return ContractCheck(kept=not found, metadata={"circles": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each cycle."""
        for circle in check.metadata["circles"]:
            output.print_error(" -> ".join(circle))
