"""Undo a batch of modifications that keeps what its messages were."""

from __future__ import annotations

from collections.abc import Iterator

from sendq.console.acts.act import Act, Given, Preview, count
from sendq.console.runs import BatchId, Facts
from sendq.console.serving import invalid
from sendq.errors import InvalidArgument, NotFound, Unreadable
from sendq.operators import Operators

LEFT_OUT = "Not restored, since their snapshots are deleted"


class Undo(Act):
    """Restore its messages to what they were, except those that were changed since."""

    name = "undo"
    fields = ("batch",)

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many messages would be restored, or why none can be."""
        batch = _batch_of(given)
        number, facts, warnings = 0, list[tuple[str, str]](), list[str]()
        try:
            found = operators.undo(batch, vault=given.vault, by=given.by, dry_run=True)
        except InvalidArgument as refused:
            warnings.append(invalid(refused))
        except Unreadable:
            warnings.append(
                "It cannot be undone here: the ledger is encrypted, and the console does not have its key. Use sendq "
                "undo where workers run."
            )
        else:
            number = found.total
            facts.append(("Messages that it changed", f"{number:,}"))
            if found.left_out:
                facts.append((LEFT_OUT, count(found.left_out, "message")))
            if found.existed:
                warnings.append(f"It is undone by batch {found.undo_id} already, which goes on.")
        what = "Undo a batch" if warnings else f"Undo {count(number, 'change')}"
        return Preview(
            what=what,
            button=what,
            facts=facts,
            back=("batches", batch),
            warnings=warnings,
            possible=not warnings,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """One step, which starts the batch that undoes this one."""
        made = operators.undo(_batch_of(given), vault=given.vault, by=given.by, reason=given.reason)
        left_out = ((LEFT_OUT, count(made.left_out, "message")),) if made.left_out else ()
        yield ("Batch", BatchId(made.undo_id or "")), ("Messages", f"{made.total:,}"), *left_out


def _batch_of(given: Given) -> str:
    batch = given.get("batch")
    if batch is None:
        raise NotFound("this address names no batch")
    return batch
