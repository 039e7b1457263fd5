"""Which proxies in front of a server are believed, and the address of the client behind them."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.requests import Request


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
