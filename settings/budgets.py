"""``SENDQ_BUDGETS``: JSON that becomes a list of `sendq.rules.budgets.Budget`."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from sendq.rules.budgets import Budget, read_budget
from settings.values import refuse

_SHAPE = 'write {"shop": "500/h", "shop campaign=may": "200/d"}, with a number from 1 and min, h or d'


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise refuse("names an application or tag twice", "keep one budget of each")
    return found


def _listed(value: object) -> object:
    if isinstance(value, list | tuple) and all(isinstance(one, Budget) for one in value):
        return tuple(value)
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=_pairs)
        except PydanticCustomError:  # a ValueError, too
            raise
        except (ValueError, RecursionError):
            raise refuse("is not JSON", _SHAPE) from None
    if not isinstance(value, dict):
        raise refuse("is not a JSON object", _SHAPE)
    found = []
    for position, (name, amount) in enumerate(value.items(), 1):
        try:
            found.append(read_budget(str(name), amount))
        except ValueError as error:
            raise refuse(f"has a budget (number {position}) that {error}", _SHAPE) from None
    return tuple(found)


BudgetSettings = Annotated[tuple[Budget, ...], BeforeValidator(_listed)]
