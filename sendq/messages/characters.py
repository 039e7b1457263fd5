"""Characters that must not go where they were put.

A line break in a header is how one header becomes two. NUL is refused by PostgreSQL, and a lone surrogate (half of a
character, left over from a cut string or from ``json.loads('"\\ud800"')``) by UTF-8. All three are found here, at
enqueue, where somebody can still mend them. What is said names the fault and never shows the text around it.
"""

from __future__ import annotations

import re

_name = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}").fullmatch


def text_fault(text: str) -> str | None:
    """What keeps ``text`` from being stored and sent at all, or None."""
    faults = ["a NUL character"] if "\0" in text else []
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            faults.append("a lone surrogate (half of a character)")
    return f"contains {' and '.join(faults)}" if faults else None


def header_fault(text: str) -> str | None:
    """What keeps ``text`` out of a header, or None: as `text_fault`, and line breaks (CR, LF)."""
    # Nearly every header ends here: no control character and no surrogate is printable.
    if text.isprintable():
        return None
    fault = text_fault(text)
    if "\r" in text or "\n" in text:
        return f"{fault} and a line break" if fault else "contains a line break (CR or LF)"
    return fault


def shown(name: object) -> str:
    """``name`` (of a field, of a metadata pair) as an error may show it: itself if it reads like a name, else ``…``."""
    return name if isinstance(name, str) and _name(name) else "…"
