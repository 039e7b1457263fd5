"""Characters that cannot be stored or sent.

A line break turns one header into two. PostgreSQL refuses NUL, and UTF-8 a lone surrogate (half of a character, from a
cut string or from ``json.loads('"\\ud800"')``). All three are found at enqueue, where the caller can correct them.
Errors name the fault and never show the text around it.
"""

from __future__ import annotations

import re

_name = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}").fullmatch


def text_fault(text: str) -> str | None:
    """Why ``text`` cannot be stored or sent, or None."""
    faults = ["a NUL character"] if "\0" in text else []
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            faults.append("a lone surrogate (half of a character)")
    return f"contains {' and '.join(faults)}" if faults else None


def header_fault(text: str) -> str | None:
    """Why ``text`` cannot be in a header, or None: as `text_fault`, or because of a line break (CR, LF)."""
    # The fast path for nearly every header: control characters and surrogates are not printable.
    if text.isprintable():
        return None
    fault = text_fault(text)
    if "\r" in text or "\n" in text:
        return f"{fault} and a line break" if fault else "contains a line break (CR or LF)"
    return fault


def shown(name: object) -> str:
    """``name`` (of a field, of a metadata pair) as an error may show it: itself if it looks like a name, else ``…``."""
    return name if isinstance(name, str) and _name(name) else "…"
