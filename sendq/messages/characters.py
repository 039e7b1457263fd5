"""Characters that cannot be stored or sent.

A line break turns one header into two, and Python's mailers and others break lines at more characters than CR and LF.
Control characters are not allowed in a header (RFC 5322, section 2.2). Characters that override the direction of text
make it read as something else: ``a\\u202egnp.exe`` shows as ``aexe.png``. PostgreSQL refuses NUL, and UTF-8 a lone
surrogate (half of a character, from a cut string or from ``json.loads('"\\ud800"')``). All are found at enqueue, where
the caller can correct them. Errors name the fault and never show the text around it.
"""

from __future__ import annotations

import re

_name = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}").fullmatch

# Where str.splitlines() breaks.
_line_break = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]").search
# The other control characters of ASCII and Latin-1. A header may contain TAB; NUL has its own words.
_control = re.compile("[\x01-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f]").search
# Overrides make text read as something else. Isolates and embeddings only keep it apart: translation libraries (Fluent,
# ICU) put names between the ones, telephones and Hebrew or Arabic texts have the others. They reach no further than
# their end, so only one without its end is a fault.
_override = re.compile("[\u202d\u202e]").search
_apart = (
    (re.compile("[\u2066-\u2069]").findall, "\u2069"),
    (re.compile("[\u202a-\u202c]").findall, "\u202c"),
)


def text_fault(text: str) -> str | None:
    """Why ``text`` cannot be stored or sent, or None."""
    if text.isascii() and "\0" not in text:
        return None
    return _named(_text_faults(text))


def header_fault(text: str) -> str | None:
    """Why ``text`` cannot be in a header or be a file's name, or None."""
    # The fast path for nearly every header: none of the characters below is printable.
    if text.isprintable():
        return None
    faults = _text_faults(text)
    if "\r" in text or "\n" in text:
        faults.append("a line break (CR or LF)")
    elif (line_break := _line_break(text)) is not None:
        faults.append(f"a line break ({code_point(line_break[0])})")
    if (control := _control(text)) is not None:
        faults.append(f"a control character ({code_point(control[0])})")
    if _override(text) or _has_open_end(text):
        faults.append("a character that overrides the direction of text")
    return _named(faults)


def has_lone_surrogate(text: str) -> bool:
    """Whether ``text`` has half of a character, and so no encoding."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def code_point(character: str) -> str:
    """``U+200B``: the name of a character that cannot be seen."""
    return f"U+{ord(character):04X}"


def shown(name: object) -> str:
    """``name`` (of a field, of a metadata pair) as an error may show it: itself if it looks like a name, else ``…``."""
    return name if isinstance(name, str) and _name(name) else "…"


def _text_faults(text: str) -> list[str]:
    faults = ["a NUL character"] if "\0" in text else []
    if has_lone_surrogate(text):
        faults.append("a lone surrogate (half of a character)")
    return faults


def _named(faults: list[str]) -> str | None:
    return f"contains {' and '.join(faults)}" if faults else None


def _has_open_end(text: str) -> bool:
    for found_in, end in _apart:
        open_ones = 0
        for one in found_in(text):
            open_ones += -1 if one == end else 1
            if open_ones < 0:
                return True
        if open_ones:
            return True
    return False
