"""Addresses of a broker that Redis Sentinel watches, as kombu writes them, with the primary's name as a parameter.

``sentinel://:password@a:26379/0;sentinel://:password@b:26379/0?master_name=mymaster``. The login is that of the Redis
server; sentinels that ask for a login have it in ``sentinel_username`` and ``sentinel_password``. kombu takes what is
behind the ``?`` as options of its transport (https://docs.celeryq.dev/projects/kombu, "Redis Transport").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

SCHEME = "sentinel"
DEFAULT_PORT = 26379
EXAMPLE = "sentinel://:password@a.example.com:26379/0;sentinel://b.example.com:26379?master_name=mymaster"

_OPTIONS = frozenset({"master_name", "sentinel_username", "sentinel_password"})


@dataclass(frozen=True)
class Sentinels:
    """Where the sentinels are, and which server they watch. Logins are decoded; None: there is none."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    database: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an address; login and database may be in any of its parts, if they do not differ.

        Raises:
            ValueError: what is wrong with it, without its values.
        """
        address, _, query = url.partition("?")
        options = parse_qs(query, keep_blank_values=True)
        if set(options) - _OPTIONS:
            raise ValueError(f"has parameters other than {', '.join(sorted(_OPTIONS))}")
        parts = [urlsplit(one) for one in address.split(";")]
        if any(one.scheme != SCHEME or not one.hostname for one in parts):
            raise ValueError("has a part that is not the address of a sentinel")
        if not options.get("master_name", [""])[0]:
            raise ValueError("does not name the primary that the sentinels watch")
        databases = {one.path.strip("/") for one in parts} - {""}
        logins = {(one.username or None, one.password) for one in parts if one.password or one.username}
        if len(databases) > 1 or len(logins) > 1:
            raise ValueError("has parts with different logins or databases")
        database = databases.pop() if databases else "0"
        if not database.isdecimal():
            raise ValueError("names a database that is not a number")
        username, password = logins.pop() if logins else (None, None)
        return cls(
            hosts=tuple((str(one.hostname), one.port or DEFAULT_PORT) for one in parts),
            name=options["master_name"][0],
            database=int(database),
            username=unquote(username) if username else None,
            password=unquote(password) if password is not None else None,
            **{key: options[key][0] for key in ("sentinel_username", "sentinel_password") if key in options},
        )

    @property
    def kombu_url(self) -> str:
        """The address for kombu: whichever sentinel it begins with, it needs login and database."""
        login = ""
        if self.username is not None or self.password is not None:
            login = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        return ";".join(
            f"{SCHEME}://{login}{f'[{host}]' if ':' in host else host}:{port}/{self.database}"
            for host, port in self.hosts
        )

    @property
    def url(self) -> str:
        """The whole address, for `parse`."""
        options = {"master_name": self.name, **self.sentinel_login("sentinel_")}
        return f"{self.kombu_url}?{urlencode(options)}"

    def sentinel_login(self, prefix: str = "") -> dict[str, str]:
        """The sentinels' own login, by name; empty if they ask for none."""
        login = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {f"{prefix}{name}": value for name, value in login.items() if value is not None}


def is_sentinel(url: str) -> bool:
    """Whether sentinels say where the server is."""
    return url.startswith(f"{SCHEME}://")


def broker_config(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Celery's settings of a broker: its address, and the transport's options, to which those of Sentinel are added."""
    if is_sentinel(url):
        found = Sentinels.parse(url)
        options = {**options, "master_name": found.name, "sentinel_kwargs": found.sentinel_login()}
        # The timeouts are those of the connections to sentinels as well.
        options["sentinel_kwargs"] |= {name: each for name, each in options.items() if name.startswith("socket_")}
        url = found.kombu_url
    return {"broker_url": url, "broker_transport_options": options}
