"""A budget with several worker processes: together they send no more, also after a start, and an event says so once."""

from __future__ import annotations

import json

from sendq import Options, Send
from sendq.ledger.db import schema
from sendq.rules.rule_ids import OVER_BUDGET
from tests.support.system import System, mail
from tests.support.waiting import eventually

# The test takes seconds of the day for which this budget is.
MOST, GRANTS = 12, 6
BUDGETS = json.dumps({"default campaign=may": f"{MOST}/d"})


def test_two_workers_send_no_more_than_the_budget(system: System) -> None:
    for _ in range(2):
        system.start_worker(SENDQ_BUDGETS=BUDGETS)
    may = [Send(f"g{number % GRANTS}", mail(), Options(tags={"campaign": "may"})) for number in range(3 * MOST)]
    plain = [Send(f"g{number}", mail()) for number in range(GRANTS)]
    system.queue.send_many([*may, *plain])
    eventually(lambda: waiting(system) == 2 * MOST, "the others to be put off")
    eventually(lambda: sent(system) == MOST + GRANTS, "what may go")
    system.start_worker(SENDQ_BUDGETS=BUDGETS)
    system.queue.send_many(may[:GRANTS])
    eventually(lambda: waiting(system) == 2 * MOST + GRANTS, "the new ones to be put off, too")
    eventually(lambda: bool(events(system)), "the event")
    assert sent(system) == sum(system.accepted().values()) == MOST + GRANTS
    assert events(system) == [("default", "campaign=may")]


def waiting(system: System) -> int:
    return sum(row.state == "queued" and row.rule == OVER_BUDGET for row in system.rows(schema.job))


def sent(system: System) -> int:
    return sum(row.state == "sent" for row in system.rows(schema.job))


def events(system: System) -> list[tuple[str, str]]:
    return [(row.application, row.tag) for row in system.rows(schema.event) if row.kind == "over_budget"]
