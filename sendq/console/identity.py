"""Who asks: a person and a role, from the mounting application, from a proxy's header, or anyone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.requests import Request

from sendq.web.proxies import Proxies


class Role(StrEnum):
    """What a person may do."""

    VIEWER = "viewer"  # read
    OPERATOR = "operator"  # read and act


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is signed in. ``name`` is recorded as the author of every act."""

    name: str
    role: Role = Role.VIEWER

    @property
    def acts(self) -> bool:
        """Whether this person may act."""
        return self.role is Role.OPERATOR


# Says who sends a request; None: a person who may not read. It may be a coroutine function.
Who: TypeAlias = Callable[[Request], "Person | Awaitable[Person | None] | None"]

ANONYMOUS = Person("anonymous")


def anyone(request: Request) -> Person | None:
    """Anyone on this machine may read; no one may act.

    The request has to come from this machine and to name it: a page of another site whose name resolves to 127.0.0.1
    may not read either, nor may clients of a proxy, which may be anywhere.
    """
    peer = request.client.host if request.client is not None else None
    here = is_loopback(peer) and is_loopback(hostname_of(request))
    return ANONYMOUS if here and not _came_through_a_proxy(request) else None


# Any of these says that a proxy has passed the request on.
PROXY_HEADERS = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-server", "x-real-ip",
)  # fmt: skip


def _came_through_a_proxy(request: Request) -> bool:
    """By what it adds, or by HTTP/1.0: browsers do not speak it, and nginx does by default, without adding a header."""
    return request.scope["http_version"] == "1.0" or any(name in request.headers for name in PROXY_HEADERS)


def hostname_of(request: Request) -> str | None:
    """The name by which the client calls this server; None: it gives none, or not a valid one."""
    return hostname_in(request.headers.get("host", ""))


def hostname_in(host: str) -> str | None:
    """The name in a header ``Host``; None: it is not valid."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError for a port that is none
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None


def is_loopback(host: str | None) -> bool:
    """Whether a host name is this machine: ``localhost``, 127.0.0.0/8, ``::1``."""
    try:
        if host is None or host.lower() == "localhost":
            return host is not None
        address = ip_address(host.strip("[]"))
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return False


class ProxyHeader:
    """Who asks is what a header says, if the request comes from a trusted proxy.

    The proxy must remove the header from what clients send. Everybody it lets through may read; ``operators`` are the
    names of those who may act.
    """

    def __init__(self, header: str, *, trusted: Sequence[str], operators: Collection[str] = ()) -> None:
        """``trusted``: addresses or networks of the proxy (``10.0.0.7``, ``10.0.0.0/8``)."""
        self._header = header
        self._proxies = Proxies(trusted)
        self._operators = frozenset(operators)

    def __call__(self, request: Request) -> Person | None:
        names = request.headers.getlist(self._header)
        if not self._proxies.sent(request) or len(names) != 1 or not names[0].strip():
            return None
        name = names[0].strip()
        return Person(name, Role.OPERATOR if name in self._operators else Role.VIEWER)
