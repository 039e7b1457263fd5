"""Search: one box for ids, keys, message ids and grants. What is found alone is opened at once."""

from __future__ import annotations

from sendq.console.asked import Asked, Redirect, View
from sendq.console.desk import Desk


def search(desk: Desk, asked: Asked) -> View | Redirect:
    """The page of what was found, or a list of it."""
    text = asked.get("q") or ""
    found = desk.operators.search(text)
    if found.number == 1:
        if found.jobs:
            return Redirect(asked.url("jobs", found.jobs[0]))
        if found.batches:
            return Redirect(asked.url("batches", found.batches[0]))
        return Redirect(asked.url("accounts", found.grants[0].application, found.grants[0].grant_id))
    return View("search.html", {"live": False, "text": text, "found": found}, 200 if found.number else 404)
