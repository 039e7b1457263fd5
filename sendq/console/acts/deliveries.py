"""Deliver outcomes again that their receivers did not accept."""

from __future__ import annotations

from collections.abc import Iterator

from sendq.console.acts.act import Act, Given, Preview, count
from sendq.console.runs import Facts
from sendq.errors import NotFound
from sendq.filters import DeliveryFilter
from sendq.operators import Operators


class DeliverAgain(Act):
    """One delivery, or all of a receiver that have not been accepted."""

    name = "deliver"
    fields = ("delivery", "receiver", "state")

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many would be tried now."""
        number = operators.deliver_again(self._which(given), by=given.by, dry_run=True).finish().retried
        return Preview(
            what=f"Deliver {count(number, 'outcome')} again",
            button=f"Deliver {count(number, 'outcome')} now",
            facts=[("Not accepted so far", count(number, "outcome"))],
            back=("outcomes",),
            warnings=[] if number else ["None of them is left to deliver."],
            possible=number > 0,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A few hundred deliveries in each step."""
        for part in operators.deliver_again(self._which(given), by=given.by, reason=given.reason):
            yield (("Due now", count(part.retried, "delivery", "deliveries")),)

    def _which(self, given: Given) -> DeliveryFilter | list[str]:
        delivery = given.get("delivery")
        if delivery is not None:
            return [delivery]
        state, receiver = given.get("state"), given.get("receiver")
        if state not in ("waiting", "given_up", None) or (state is None and receiver is None):
            raise NotFound("this address names neither a delivery nor a receiver nor a state")
        return DeliveryFilter(states=() if state is None else (state,), receiver=receiver)
