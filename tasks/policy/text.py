"""Text from outside, made harmless: no control characters, no addresses, one spelling of white space. Pure."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\ud800-\udfff\ufeff]+")
_SPACE = re.compile(r"\s+")
_LOCAL_REVERSED = re.compile(r"[^\s@<>()\[\]{},;:|\"'`=\\]*")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " "})


def clean(text: str) -> str:
    """The text on one line, without control characters, lone surrogates and invisible direction marks."""
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()


def flatten(text: str) -> str:
    """The text as it is matched: cleaned, lower-case, plain quotation marks."""
    return clean(text.translate(_QUOTES)).lower()


def redact(text: str) -> str:
    """The text with the local part of every address replaced: ``leyah@example.com`` becomes ``…@example.com``.

    Works from each ``@`` backwards, so that its cost is linear in whatever is sent to us. ``%40`` counts as ``@``.
    """
    if "%40" in text:
        text = text.replace("%40", "@")
    text = text.replace("\uff20", "@")
    if "@" not in text:
        return text
    *heads, tail = text.split("@")
    return "@".join([_without_local(head) for head in heads] + [tail])


def _without_local(head: str) -> str:
    """``head`` is what stands before an ``@``: cut off the local part at its end."""
    if head.endswith('"') and (opening := head.rfind('"', 0, -1)) >= 0:
        return head[:opening] + "…"
    found = _LOCAL_REVERSED.match(head[::-1])
    length = found.end() if found else 0
    return head[: len(head) - length] + "…"
