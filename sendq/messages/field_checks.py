"""The rules for the values of a message's fields. No error shows the value.

Limits are those that Nylas documents for "Send a message" and for metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from sendq.errors import Problem
from sendq.messages.addresses import fault, wire_form
from sendq.messages.characters import header_fault, shown, text_fault
from sendq.messages.fields import CustomHeader, Recipient, Template, TrackingOptions
from sendq.messages.mark import JOB_HEADER

MAX_METADATA_PAIRS = 50
MAX_METADATA_KEY = 40
MAX_METADATA_VALUE = 500
MAX_TRACKING_LABEL = 2_048
MAX_TRACKING_DOMAIN = 253

# RFC 5322 section 3.6.8: a field name is printable ASCII without the colon.
_header_name = re.compile(r"[!-9;-~]+").fullmatch

# Headers that a field of the message makes, or that the provider writes around the body. A second one would contradict
# the first, and a Bcc would reach people whom no limit has counted.
_MADE_ELSEWHERE = frozenset(
    {"to", "cc", "bcc", "from", "reply-to", "subject", "mime-version", "content-type", "content-transfer-encoding"}
)

# Headers that may send to further people, name another sender, or claim what only mail servers write: signatures, and
# the way that a message took.
_SENDS_OR_FORGES = re.compile(
    r"resent-.*|arc-.*|apparently-to|envelope-to|delivered-to|x-original-to|sender|x-sender|return-path|errors-to"
    r"|received|received-spf|authentication-results|dkim-signature|domainkey-signature"
).fullmatch


def add_fault(field: str, fault: str | None, problems: list[Problem]) -> None:
    if fault is not None:
        problems.append(Problem(field, fault, "remove it"))


def check_people(field: str, people: tuple[Recipient, ...], problems: list[Problem]) -> None:
    for index, person in enumerate(people):
        if wire_form(person.email) is None:
            problems.append(Problem(f"{field}[{index}].email", fault(person.email), "correct it"))
        if person.name is not None:
            add_fault(f"{field}[{index}].name", header_fault(person.name), problems)


def check_headers(headers: tuple[CustomHeader, ...], problems: list[Problem]) -> None:
    for index, header in enumerate(headers):
        name, field = header.name.lower(), f"custom_headers[{index}].name"
        if not _header_name(name):
            problems.append(
                Problem(field, "is not a valid header name", "use printable ASCII without spaces and colons")
            )
        elif name == JOB_HEADER.lower():
            problems.append(Problem(field, f"is {JOB_HEADER}, which sendq sets itself", "use another name"))
        elif name in _MADE_ELSEWHERE:
            problems.append(
                Problem(field, "is a header that Nylas makes from the message's fields", "set the field instead")
            )
        elif _SENDS_OR_FORGES(name):
            reason = "is a header that sends to others, names another sender, or that only mail servers write"
            problems.append(Problem(field, reason, "leave it out; recipients are set in to, cc and bcc"))
        add_fault(f"custom_headers[{index}].value", header_fault(header.value), problems)


def check_metadata(metadata: Mapping[Any, Any], problems: list[Problem]) -> None:
    most = MAX_METADATA_PAIRS - 1  # our own pair is added to these, also in modifications of messages that we sent too
    if len(metadata) > most:
        problems.append(
            Problem(
                "metadata", f"has more than {most} pairs (sendq needs one of the {MAX_METADATA_PAIRS})", "remove some"
            )
        )
    for key, value in metadata.items():
        field = f"metadata[{shown(key)}]"
        for part, text, longest in (("key", key, MAX_METADATA_KEY), ("value", value, MAX_METADATA_VALUE)):
            if not isinstance(text, str):
                problems.append(Problem(field, f"has a {part} that is not a string", "convert it to a string"))
                continue
            if len(text) > longest:
                problems.append(Problem(field, f"has a {part} of more than {longest} characters", "shorten it"))
            if (wrong := text_fault(text)) is not None:
                problems.append(Problem(field, f"has a {part} that {wrong}", "remove it"))
        if key == "":
            problems.append(Problem(field, "has an empty key", "name it"))


def check_id(field: str, value: str, problems: list[Problem]) -> None:
    add_fault(field, header_fault(value), problems)
    if not value:
        problems.append(Problem(field, "is empty", "set it, or leave it out"))


def check_template(template: Template, problems: list[Problem]) -> None:
    check_id("template.id", template.id, problems)
    variables = template.variables or {}
    if text_fault("".join(chain(variables, variables.values()))) is None:  # of nearly every template
        return
    for name, value in variables.items():
        field = f"template.variables[{shown(name)}]"
        for part, text in (("name", name), ("value", value)):
            if (wrong := text_fault(text)) is not None:
                problems.append(Problem(field, f"has a {part} that {wrong}", "remove it"))


def check_tracking(tracking: TrackingOptions, problems: list[Problem]) -> None:
    for field, text, longest in (
        ("label", tracking.label, MAX_TRACKING_LABEL),
        ("domain_name", tracking.domain_name, MAX_TRACKING_DOMAIN),
    ):
        if text is None:
            continue
        if len(text) > longest:
            problems.append(Problem(f"tracking_options.{field}", f"has more than {longest:,} characters", "shorten it"))
        add_fault(f"tracking_options.{field}", header_fault(text), problems)
