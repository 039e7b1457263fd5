"""Who asks: a person and a role, from the mounting application, from a proxy's header, or nobody in particular."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from starlette.requests import Request


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


# Says who sends a request; None: nobody who may read. It may be a coroutine function.
Who: TypeAlias = Callable[[Request], "Person | Awaitable[Person | None] | None"]

ANONYMOUS = Person("anonymous")


def anyone(request: Request) -> Person | None:
    """Everybody on this machine may read, and nobody may act.

    The request has to name this machine: a page of somebody else whose name resolves to 127.0.0.1 may not read either.
    """
    return ANONYMOUS if is_loopback(request.url.hostname) else None


def is_loopback(host: str | None) -> bool:
    """Whether a host name is this machine: ``localhost``, 127.0.0.0/8, ``::1``."""
    try:
        return host is not None and (host.lower() == "localhost" or ip_address(host.strip("[]")).is_loopback)
    except ValueError:
        return False


class Proxies:
    """Addresses of proxies whose headers are believed."""

    def __init__(self, trusted: Collection[str]) -> None:
        """``trusted``: addresses or networks. Raises ``ValueError`` for anything else."""
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(one) for one in trusted]

    def sent(self, request: Request) -> bool:
        """Whether a request comes from one of them."""
        return request.client is not None and self._has(request.client.host)

    def client_of(self, request: Request) -> str:
        """The address of the client: as the nearest proxy that is believed states it, else the peer's."""
        peer = request.client.host if request.client is not None else ""
        hops = [one.strip() for one in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
        while self._has(peer) and hops and hops[-1]:
            peer = hops.pop()
        return peer

    def _has(self, address: str) -> bool:
        try:
            return any(ip_address(address) in network for network in self._networks)
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
