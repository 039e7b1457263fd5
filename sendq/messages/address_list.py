"""The addresses in a header of a finished message: ``To: Jane (a, b) <jane@example.com>, team: a@x.example;``.

RFC 5322, section 3.4, with its obsolete forms (empty members, routes, white space around dots and @), and the names
that are written without the quotes they need (``a@x.example <a@x.example>``). Python's own `email.utils.getaddresses`
became stricter in 3.12.6, 3.11.10 and others: the same message would have a recipient on one machine and none on
another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_token = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    | (?P<quoted>"(?:[^"\\]|\\.)*")
    | (?P<literal>\[(?:[^\[\]\\]|\\.)*\])
    | (?P<special>[,;:<>@])
    | (?P<text>[^ \t\r\n"()\[\]\\,;:<>@]+)""",
    re.VERBOSE | re.DOTALL,
).match
_comment_part = re.compile(r"[^()\\]*(?:\\.[^()\\]*)*", re.DOTALL).match


class UnreadableList(ValueError):
    """The header is no list of addresses: where one ends and the next begins depends on who reads it."""


def addresses_in(value: str) -> list[str]:
    """The addresses of a header's value, without names and comments.

    What is written as an address and is none is returned as well: `sendq.messages.addresses.wire_form` decides.

    Raises `UnreadableList`.
    """
    found: list[str] = []
    member = _Member()
    in_group = False
    for kind, text in _tokens(value):
        if member.in_brackets or kind != "special" or text in "<>@":
            member.add(kind, text)
        elif text == ":":
            if in_group or not member.is_phrase:
                raise UnreadableList
            in_group, member = True, _Member()
        else:
            if text == ";" and not in_group:
                raise UnreadableList
            found += member.address()
            in_group, member = in_group and text == ",", _Member()
    if in_group:
        raise UnreadableList
    return found + member.address()


def _tokens(value: str) -> list[tuple[str, str]]:
    """Names and texts of the tokens. A comment counts as a space."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(value):
        if value[at] == "(":
            at = _end_of_comment(value, at)
            tokens.append(("space", " "))
            continue
        found = _token(value, at)
        if found is None:
            raise UnreadableList
        tokens.append((str(found.lastgroup), found[0]))
        at = found.end()
    return tokens


def _end_of_comment(value: str, at: int) -> int:
    depth = 0
    while at < len(value):
        if value[at] == "(":
            depth += 1
        elif value[at] == ")":
            depth -= 1
            if depth == 0:
                return at + 1
        else:  # a backslash at the very end
            break
        found = _comment_part(value, at + 1)
        assert found is not None
        at = found.end()
    raise UnreadableList


@dataclass(slots=True)
class _Member:
    """One member of a list while its tokens are read: ``name <address>``, or an address alone."""

    outside: list[tuple[str, str]] = field(default_factory=list)
    inside: list[tuple[str, str]] | None = None
    in_brackets: bool = False

    @property
    def is_phrase(self) -> bool:
        """Whether it is a name so far: what stands before the colon of a group."""
        kinds = {kind for kind, _ in self.outside}
        return self.inside is None and "special" not in kinds and kinds - {"space"} != set()

    def add(self, kind: str, text: str) -> None:
        if text == "<" and kind == "special":
            if self.inside is not None:
                raise UnreadableList
            self.inside, self.in_brackets = [], True
        elif text == ">" and kind == "special":
            if not self.in_brackets:
                raise UnreadableList
            self.in_brackets = False
        elif self.in_brackets:
            assert self.inside is not None
            self.inside.append((kind, text))
        elif self.inside is not None and kind != "space":
            raise UnreadableList
        else:
            self.outside.append((kind, text))

    def address(self) -> list[str]:
        """Its address; none if it is empty."""
        if self.in_brackets:
            raise UnreadableList
        if self.inside is not None:
            return [_joined(_without_route(self.inside))]
        return [_joined(self.outside)] if any(kind != "space" for kind, _ in self.outside) else []


def _without_route(tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """``@one.example,@two.example:jane@example.com``: servers ignore the way that it names."""
    first = next((text for kind, text in tokens if kind != "space"), "")
    if first != "@" or ("special", ":") not in tokens:
        return tokens
    return tokens[tokens.index(("special", ":")) + 1 :]


def _joined(tokens: list[tuple[str, str]]) -> str:
    """The text of an address. White space beside a dot or the @ is not part of it; any other stays, as a fault."""
    joined, space = "", False
    for kind, text in tokens:
        if kind == "space":
            space = joined != ""
            continue
        if space and not (joined.endswith((".", "@")) or text.startswith((".", "@"))):
            joined += " "
        joined, space = joined + text, False
    return joined
