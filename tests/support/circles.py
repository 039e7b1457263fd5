"""A contract for import-linter: no module imports itself by way of others. Part of ``./dev lint``.

Imports inside functions and under ``TYPE_CHECKING`` count: they only hide a circle from Python, not from a reader. The
linter's own ``acyclic_siblings`` compares whole folders, of which two may well use each other.
"""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output


def circles(graph: ImportGraph) -> list[list[str]]:
    """The circles in a graph of modules: for two that import each other, at any distance, the shortest one."""
    found: dict[frozenset[str], list[str]] = {}
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            way_back = graph.find_shortest_chain(importer=imported, imported=importer)
            if way_back:
                found.setdefault(frozenset(way_back), [importer, *way_back])
    return list(found.values())


class NoCircles(Contract):
    """No circle of imports among the modules of the root packages."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Whether there is none."""
        found = circles(graph)
        return ContractCheck(kept=not found, metadata={"circles": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each circle."""
        for circle in check.metadata["circles"]:
            output.print_error(" -> ".join(circle))
