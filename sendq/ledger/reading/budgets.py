"""What has been used of budgets, for people and for metrics. There is one row for each of its windows' lengths."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from sendq.clock import Micros, moment
from sendq.ledger.db import schema
from sendq.rules.budgets import WHOLE, UsedUp, unit
from sendq.rules.tags import each_tag
from sendq.views import BudgetView

_budget = schema.budget.c


def budgets(connection: Connection, *, now: Micros) -> tuple[BudgetView, ...]:
    """The budgets of which some is used in the current window, by application, tag and window."""
    query = select(schema.budget).where(_budget.window_at + _budget.per > now)
    return tuple(
        BudgetView(
            row.application,
            row.tag or None,
            row.most,
            unit(row.per),
            row.used,
            row.over_at is not None and row.over_at >= row.window_at,
            moment(row.window_at + row.per),
        )
        for row in connection.execute(query.order_by(_budget.application, _budget.tag, _budget.per))
    )


def used_up(connection: Connection, application: str, tags: str | None) -> tuple[UsedUp, ...]:
    """The budgets of an application and of these tags that were used up in their last window."""
    names = (WHOLE, *each_tag(tags))
    query = select(schema.budget).where(
        _budget.application == application, _budget.tag.in_(names), _budget.used >= _budget.most
    )
    return tuple(
        UsedUp(row.application, row.tag, row.most, row.per, row.window_at + row.per)
        for row in connection.execute(query.order_by(_budget.application, _budget.tag, _budget.per))
    )


def room(connection: Connection, application: str, tags: Iterable[str] = (), *, now: Micros) -> int | None:
    """How many more sends with these tags may begin in the current windows; None: no budget limits them that was used
    in these windows or the ones before.
    """
    names = (WHOLE, *tags)
    lately = _budget.window_at + 2 * _budget.per > now
    query = select(schema.budget).where(_budget.application == application, _budget.tag.in_(names), lately)
    left = (row.most - (row.used if row.window_at + row.per > now else 0) for row in connection.execute(query))
    return max(0, rooms) if (rooms := min(left, default=None)) is not None else None
