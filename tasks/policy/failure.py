"""From any answer to a `Success` or a `Failure`: whatever the bytes, nothing here raises.

An answer is what one HTTP call brought: a status, headers and a body, or the `fault` that ended it without them. The
API speaks several dialects (nested and flat JSON, a bare string, HTML from its edge, nothing at all) and wraps the
words of seven providers; what the policy needs to tell them apart is collected here, in one place and once: the type
without its ``api.`` prefix, all text as one lower-cased string, the time that was stated, who is speaking, an SMTP
code.

Two promises. *No address survives*: the local part of whatever looks like an address is replaced by ``…`` before
anything is kept, so a failure can be logged and stored. *Text from outside is tame*: cleaned of control characters and
bounded.

When a 2xx is a success
-----------------------
If its body has the form of one (`tasks.policy.shape`). Any other answer under 2xx is a failure with an unknown outcome:
the same key asks again, which is safe whether the first request arrived or not. Of such an answer only an error or a
page is quoted, since all else may be the message. A success that is longer than what is read of it is judged by its
beginning.

Facts: Nylas, "Errors" (type strings), "Send email" (202), "Idempotent send" (the replay header); RFC 9110, 10.2.3
(Retry-After); RFC 3463 (enhanced status codes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from sendq.clock import SECOND, Micros, seconds
from sendq.redaction import redact_answer
from tasks.policy.body import ERROR_BYTES, JSON_BYTES, LEAF_CHARS, VALUES, Body, cut, read_body
from tasks.policy.shape import beginning, has_error, lacks
from tasks.policy.text import clean, flatten
from tasks.policy.waits import stated_wait

Origin = Literal["nylas", "provider", "edge", "unknown"]

PROVIDERS = ("google", "microsoft", "ews", "imap", "icloud", "yahoo", "nylas", "unknown")
OPERATIONS = ("send", "modify")

# Faults are the ways a call ends without an answer. The first group fails before a request could be written, or before
# all of it was, so the API cannot have accepted it; after the second nobody knows.
FAULTS_NOT_SENT = ("dns", "connect", "tls", "key", "local", "incomplete", "unreadable", "altered", "suppressed")
FAULTS_MAYBE_SENT = ("timeout", "reset", "cut", "died")

MESSAGE_CHARS = 500  # what a person reads in a list; longer texts of providers repeat themselves
TEXT_CHARS = 8_000  # what is searched; the longest real error seen is under 4,000
TYPE_CHARS = 80
ID_CHARS = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call brought.

    ``status`` is None if no status line came; then ``fault`` says why. ``headers`` has lower-case names. With a status,
    ``fault`` may be ``cut``: the head came and the body broke off.
    """

    status: int | None
    headers: Mapping[str, str]
    body: bytes
    fault: str | None = None


class Success(NamedTuple):
    """The API took it. Ids are None where the answer did not state them (a queued send has none)."""

    status: int
    message_id: str | None
    thread_id: str | None
    request_id: str | None
    replayed: bool
    queued: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, in one form for all dialects. Holds no address: it is safe to log and to store.

    ``type`` has no ``api.`` prefix and is lower-case, "" if none was stated. ``message`` is for people, ``text``
    (lower-case, everything that was said, the type included) for matching. ``stated`` is the wait that
    the answer asks for, None if it states none or nonsense. ``smtp`` is a reply code (or the class of an enhanced one:
    400, 500) found in the provider's words; in a 5xx only one with its enhanced code counts, since there it would rule
    out that the message went. ``refused`` counts the recipients listed as failed; their addresses are not kept.
    """

    status: int | None
    type: str
    message: str
    text: str
    request_id: str | None
    stated: Micros | None
    origin: Origin
    replayed: bool
    smtp: int | None
    refused: int
    fault: str | None
    provider: str
    operation: str


def parse(
    answer: Answer, *, provider: str, operation: str, now: Micros, grant_id: str | None = None
) -> Success | Failure:
    """Read an answer. Never raises, whatever the bytes.

    ``provider`` is one of `PROVIDERS` (anything else counts as ``unknown``), ``operation`` one of `OPERATIONS`,
    ``now`` the time (retry times stated as a date are turned into a wait from now), ``grant_id`` the grant that was
    called: a success that names another one is none.
    """
    status = answer.status
    if status is None or not 200 <= status < 300:
        body = read_body(answer.body, most=ERROR_BYTES, values=VALUES)
        return _failure(answer, body, _Said.of(body), provider=provider, operation=operation, now=now)
    body = read_body(answer.body, most=JSON_BYTES, values=VALUES)
    document = beginning(body.raw) if body.too_long else body.document
    missing = lacks(document, status=status, operation=operation, grant_id=grant_id)
    if missing is None or (status == 204 and operation != "send" and not answer.body):
        return _success(status, answer.headers, document or {})
    said = _Said.of(_quotable(body))
    failure = _failure(answer, body, said, provider=provider, operation=operation, now=now)
    return failure if failure.message else replace(failure, message=missing)


def _quotable(body: Body) -> Body:
    """What may be quoted of an answer that is no success: an error, or a page. All else may be the message."""
    if body.document is not None:
        document = body.document if has_error(body.document) else {}
        return Body({name: value for name, value in document.items() if name != "data"}, "")
    return Body(None, "") if body.raw.lstrip().startswith(("{", "[")) else body


def _is_foreign(body: Body) -> bool:
    """Whether a body without a document is none that the API writes; JSON that was cut off may be the API's."""
    return bool(body.raw.strip()) and not body.raw.lstrip().startswith("{")


def _success(status: int, headers: Mapping[str, str], document: Mapping[str, Any]) -> Success:
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    return Success(
        status=status,
        message_id=_id(data.get("id")),
        thread_id=_id(data.get("thread_id")),
        request_id=_id(document.get("request_id")) or _id(headers.get("x-request-id")),
        replayed=_replayed(headers),
        queued=status == 202,
    )


def _failure(answer: Answer, body: Body, said: _Said, *, provider: str, operation: str, now: Micros) -> Failure:
    words = dict.fromkeys(text for text in (said.type, said.message, *said.provider, *said.other) if text)
    text = flatten(redact_answer(cut(" | ".join(words), TEXT_CHARS)))
    stated_s = stated_wait(answer.headers, text, body.waits(), now=now / SECOND)
    people = said.message or next(iter(said.provider), "") or next(iter(said.other), "")
    return Failure(
        status=answer.status,
        type=_type(said.type),
        message=clean(redact_answer(cut(people, LEAF_CHARS)))[:MESSAGE_CHARS] + _refused_words(said.refused),
        text=text,
        request_id=_id((body.document or {}).get("request_id")) or _id(answer.headers.get("x-request-id")),
        stated=None if stated_s is None else seconds(stated_s),
        origin=_origin(answer, body, said),
        replayed=_replayed(answer.headers),
        smtp=_smtp([*said.provider, said.message, *said.other], strict=(answer.status or 0) >= 500),
        refused=said.refused,
        fault=answer.fault,
        provider=provider if provider in PROVIDERS else "unknown",
        operation=operation if operation in OPERATIONS else "send",
    )


def _refused_words(refused: int) -> str:
    """For the person who has to find out who has the message: how many of its recipients do not."""
    return f" ({refused} recipient{'s' if refused > 1 else ''} refused)" if refused else ""


@dataclass(frozen=True, slots=True)
class _Said:
    """Who said what in a body: the type, the API's message, the provider's words, all the rest."""

    type: str
    message: str
    provider: tuple[str, ...]
    other: tuple[str, ...]
    refused: int

    @classmethod
    def of(cls, body: Body) -> _Said:
        document = body.document
        if document is None:
            return cls("", cut(body.plain(), LEAF_CHARS), (), (), 0)
        error = document.get("error")
        inner = error if isinstance(error, dict) else document
        kind = next((value for value in (inner.get("type"), inner.get("code")) if isinstance(value, str)), "")
        message = next((value for value in (inner.get("message"), error) if isinstance(value, str)), "")
        provider: list[str] = []
        for holder in (inner, document):
            for name in ("provider_error", "server_error"):
                if holder.get(name):
                    provider += body.leaves(holder[name])
        failures = inner.get("failures") or document.get("failures")
        refused = len(failures) if isinstance(failures, dict | list) else 0
        kind, message = cut(kind, LEAF_CHARS), cut(message, LEAF_CHARS)
        return cls(kind, message, tuple(dict.fromkeys(provider)), tuple(body.leaves(document)), refused)


def _type(stated: str) -> str:
    """The type as the policy knows it: ``api.`` and spaces off, lower-case, bounded."""
    kind = clean(redact_answer(stated)).strip().lower()[:TYPE_CHARS]
    return kind.removeprefix("api.")


def _origin(answer: Answer, body: Body, said: _Said) -> Origin:
    """Who wrote the error: the provider's words are inside, or the API's own form, or neither."""
    if answer.status is None:
        return "unknown"
    if said.provider or _is_envelope((body.document or {}).get("error")):
        return "provider"
    if body.document is None:
        return "edge" if _is_page(answer, body) or _is_text_in_between(answer, body) else "unknown"
    if said.type or isinstance(body.document.get("error"), dict):
        return "nylas"
    return "edge" if answer.status >= 500 and isinstance(body.document.get("error"), str) else "unknown"


def _is_page(answer: Answer, body: Body) -> bool:
    """Whether an answer is a page of HTML or XML, or calls itself one, even an empty one."""
    is_html = answer.headers.get("content-type", "").strip().lower().startswith("text/html")
    return is_html or body.raw.lstrip().startswith("<")


def _is_text_in_between(answer: Answer, body: Body) -> bool:
    """Whether plain text was written by a proxy in between.

    The API writes bare strings too, for malformed requests above all: one job's 400, or a text with the API's
    ``x-request-id``, must not hold the whole application. A text under 404 means that no API is at this address.
    """
    if not _is_foreign(body):
        return False
    is_json_string = answer.body.lstrip().startswith(b'"')
    may_be_api = answer.status == 400 or is_json_string or "x-request-id" in answer.headers
    return answer.status == 404 or not may_be_api


def _is_envelope(error: object) -> bool:
    """Whether an error is a provider's own, handed on unwrapped (Google's has a list and a number, Graph's nests)."""
    if not isinstance(error, dict):
        return False
    return isinstance(error.get("errors"), list) or isinstance(error.get("code"), int) or "innerError" in error


def _replayed(headers: Mapping[str, str]) -> bool:
    return headers.get("idempotent-response", "").strip().lower() == "true"


def _id(value: Any) -> str | None:
    """An id as it may be stored: a short printable string, else None."""
    if not isinstance(value, str):
        return None
    tame = clean(value[: ID_CHARS + 1]).strip()
    return tame if 0 < len(tame) <= ID_CHARS else None


# Reply codes that SMTP servers use for refusals (RFC 5321, 4.2.3; RFC 4954, 6; RFC 7504). Those that are HTTP statuses
# as well (422, 500 to 504) are left out: in these texts they mean HTTP.
_SMTP_CODES = frozenset({421, 450, 451, 452, 454, 455, 471, 521, 522, 523, 525, 530, 534, 535, 538, 541, 571}) | (
    frozenset(range(550, 558))
)
_SMTP = re.compile(
    r"(?:^|(?<=[\s\"'(\[:=,;|]))([45]\d\d)(?=$|[\s\"')\]:=,;|-])(?:[\s:=,;\"'-]{0,4}([45]\.\d{1,3}\.\d{1,3})(?![\d.]*\d))?"
)
# Replies about the command itself have codes that are HTTP statuses too: they count where an SMTP command is named.
_SYNTAX = re.compile(
    r"(?:^|(?<=[\s\"'(\[:=,;|]))(50[0-4])[\s:-]{1,3}[^|\d]{0,60}?"
    r"\b(?:rcpt|mail from|helo|ehlo|syntax|bad sequence|(?:sender|recipient|bad) address)",
    re.IGNORECASE,
)
_ENHANCED = re.compile(r"(?<![\d.])([45])\.\d{1,3}\.\d{1,3}(?![\d.]*\d)")


def _smtp(texts: list[str], *, strict: bool) -> int | None:
    """The SMTP reply code in the first text that has one; the class of an enhanced code where it stands alone."""
    for text in texts:
        head = text[:2_000]
        if not strict and (found := _SYNTAX.search(head)):
            return int(found[1])
        for found in _SMTP.finditer(head):
            code, enhanced = int(found[1]), found[2]
            if code in _SMTP_CODES and (enhanced or not strict):
                return code
        if not strict and (alone := _ENHANCED.search(head)):
            return int(alone[1]) * 100
    return None
