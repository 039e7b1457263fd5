"""Text from outside, cleaned: no control characters, one spelling of white space and quotation marks. Pure."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\ud800-\udfff\ufeff]+")
_SPACE = re.compile(r"\s+")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " "})


def clean(text: str) -> str:
    """The text on one line, without control characters, lone surrogates and invisible direction marks."""
    if text.isascii() and text.isprintable() and "  " not in text:  # ids and most texts
        return text.strip()
    return _SPACE.sub(" ", _CONTROL.sub(" ", text)).strip()


def flatten(text: str) -> str:
    """The text as it is matched: cleaned, lower-case, plain quotation marks."""
    return clean(text.translate(_QUOTES)).lower()
