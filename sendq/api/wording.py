"""What problems of the Python API say, in the words of JSON and HTTP."""

from __future__ import annotations

import re

from sendq.errors import Problem
from sendq.messages.from_json import ALIASES, UNKNOWN

_TIME = "2026-07-01T09:00:00Z"

# Patterns in the problems of the Python API, and what they say instead; the first ones first.
WORDS = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r", or None(?: for [\w ]+)?$", ", or leave it out"),
        (r"is not True or False", "is neither true nor false"),
        (r"pass a bool", "send true or false"),
        (r"cannot be True", "cannot be true"),
        (r"is no(?:t a)? datetime with a time zone", "is not a time with a time zone"),
        (r"is not a datetime", "is not a time"),
        (r"(?:pass a datetime with a time zone|give one, like datetime\..*)", f"send one like {_TIME}"),
        (r"is not a timedelta", "is not a number of seconds"),
        (r"pass one,? like timedelta\(.*\)", "send one like 3600"),
        (r"is not a (?:mapping|dict(?: of strings)?)", "is not an object"),
        (r"a [A-Z]\w+ or a dict of", "an object of"),
        (r"a list of [A-Z]\w+, or of dicts", "a list of objects"),
        (r"\ba dict\b", "an object"),
        (r"see the class for the expected type", "see /v1/openapi.json for its type"),
        (r"is not a sendq\.Window", "is not an object"),
        (r"create one: Window\(.*", 'send one like {"hours": "09:00-17:30", "days": "mon-fri", "tz": "Europe/Berlin"}'),
        (r"a NewBatch\(open=True\)", 'set "open": true'),
        (r"(\w+)=True", r'"\1": true'),
        (r"(\w+)='(\w+)'", r'"\1": "\2"'),
        (r"JobView\.", ""),
        (r"\b(in|from)_(?= )", r"\1"),
        (r"a call of send_many without a batch", "a request to /v1/send-many"),
        (r"the job that send returned, or its id", "the id that an earlier send returned"),
        (r"send a sendq\.Message", "send `message`"),
        (r"use modify_matching with a Query of thread_id and in_", "send a query with thread_id and in"),
        (r"cancel_batch ends", "cancel it: that ends"),
        (r"the queue has none", "the server has none"),
        (r"pass unsubscribe_url to the queue, or url with the message", "set url of `unsubscribe` in the message"),
        (r"put the link that unsubscribe_url\(\) returns for this recipient", "put a link of your own to unsubscribe"),
        (r"pass bytes, a pathlib\.Path, or a file .*", "send it in base64, or as a file of a form"),
    )
)

_alias = re.compile(rf"\b({'|'.join(ALIASES.values())})(?=$|[.\[])")


def in_json(problem: Problem) -> Problem:
    """A problem in the words of JSON, with the fields' names there."""
    field = problem.field
    if problem.reason != UNKNOWN[0]:  # that is as the client wrote it
        field = _alias.sub(lambda found: found[1].rstrip("_"), field)
    return Problem(field, _said(problem.reason), _said(problem.remedy))


def _said(text: str) -> str:
    for pattern, instead in WORDS:
        text = pattern.sub(instead, text)
    return text
