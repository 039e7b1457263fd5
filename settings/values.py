"""Types of settings: validated and normalised, with secrets hidden."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, Secret, SecretStr
from pydantic_core import PydanticCustomError

from sendq.ledger.db.urls import worker_url
from sendq.messages.unsubscribe import url_fault
from sendq.rules.tags import check_tag_key
from sendq.vault import Vault
from settings.brokers import EXAMPLE, Sentinels, is_sentinel

KIND = "sendq"  # the type of our own errors, to distinguish them from pydantic's


def refuse(reason: str, remedy: str) -> PydanticCustomError:
    """An error with a reason and a remedy; neither may repeat the value."""
    return PydanticCustomError(KIND, "{reason}", {"reason": reason, "remedy": remedy})


def mask(url: str) -> str:
    """The address with every password replaced by ``***``; in unclear cases too much is replaced."""
    url = re.sub(r"(://[^:/?#@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"(?i)([?&][^=&]*(?:password|passwd|secret)[^=&]*=)[^&]*", r"\1***", url)


class SecretUrl(Secret[str]):
    """An address that may contain a password: only ``get_secret_value()`` shows it, everything else ``***``."""

    def _display(self) -> str:
        return mask(self.get_secret_value())


def _api_uri(value: str) -> str:
    parts = _split(value)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise refuse("is not a web address", "set it to https://api.us.nylas.com or https://api.eu.nylas.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise refuse("has more than scheme and host", "remove login, query and fragment")
    if parts.path.strip("/"):
        raise refuse("has a path", "remove the path (/v3/… is added automatically)")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise refuse("would send the API key unencrypted", "use https:// (http:// is for simulators on this machine)")
    return value.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and no other by any resolver: ``localhost``, 127.0.0.0/8, ``::1``.

    Not by its beginning: ``127.example.com`` is a name, and ``134744072`` an address elsewhere.
    """
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _split(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  # raises for a port that is not a number
    except ValueError:
        raise refuse("is not an address", "check brackets and port") from None
    return parts


OTHER_LEDGER = "write postgresql://user:password@host/database, or sqlite:////absolute/path.db"


def _ledger_url(secret: SecretUrl) -> SecretUrl:
    """PostgreSQL through psycopg 3, or a SQLite file."""
    try:
        return SecretUrl(worker_url(secret.get_secret_value()))
    except ValueError as error:
        raise refuse(str(error), OTHER_LEDGER) from None


_raw_in_login = re.compile(r"[#/?\[\]\s]").search

RAW_LOGIN = "has a password (or user name) with one of # / ? [ ] and spaces in it"
ENCODE_LOGIN = "percent-encode these: # is %23, / is %2F, ? is %3F, [ is %5B, ] is %5D"

CLUSTER = "is a Redis Cluster, which Celery cannot use (its keys would be on several nodes)"
# No server: messages stay in the worker that publishes them. `sendq up` and the demo use it where there is no Redis.
IN_MEMORY = "memory://"

ONE_SERVER = "write redis://:password@host:6379/0 (rediss:// for TLS), or the address of its sentinels"
SENTINELS = f"write {EXAMPLE}; TLS is not supported there"
VALKEY = {"valkey": "redis", "valkeys": "rediss"}  # the same protocol, which kombu knows by its older name


def _redis_url(secret: SecretUrl) -> SecretUrl:
    """One Redis or Valkey server, or the sentinels that watch one, in kombu's form.

    TLS certificates are verified unless the address says otherwise.
    """
    if secret.get_secret_value() == IN_MEMORY:
        return secret
    if is_sentinel(secret.get_secret_value()):
        return SecretUrl(_sentinels_url(secret.get_secret_value()))
    scheme, _, rest = secret.get_secret_value().partition("://")
    scheme = VALKEY.get(scheme, scheme)
    if not rest.startswith("/") and _raw_in_login(rest.rpartition("@")[0]):
        raise refuse(RAW_LOGIN, ENCODE_LOGIN)
    host = rest.partition("/")[0].rpartition("@")[2]
    # clustercfg. is the prefix of an ElastiCache cluster's configuration endpoint.
    if "cluster" in scheme or "," in host or host.startswith("clustercfg."):
        raise refuse(CLUSTER, ONE_SERVER)
    parts = _split(f"{scheme}://{rest}")
    if parts.scheme in ("unix", "redis+socket"):
        return SecretUrl(_socket_url(parts))
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise refuse("is not the address of a Redis server", ONE_SERVER)
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise refuse("names a database that is not a number", "end it with /0 or another database number")
    query = dict(parse_qsl(parts.query))
    if any(not name.startswith("ssl_") for name in query) or (query and parts.scheme == "redis"):
        raise refuse(
            "has options that the broker ignores",
            "put the database number into the path; only rediss:// takes options, and only ssl_… ones",
        )
    if parts.scheme == "rediss":
        demand = query.get("ssl_cert_reqs", "required")  # kombu's own default is not to verify
        query["ssl_cert_reqs"] = demand.lower().removeprefix("cert_")  # redis-py only reads the short form
    return SecretUrl(parts._replace(query=urlencode(query)).geturl())


def _sentinels_url(value: str) -> str:
    if any(_raw_in_login(each.partition("://")[2].rpartition("@")[0]) for each in value.partition("?")[0].split(";")):
        raise refuse(RAW_LOGIN, ENCODE_LOGIN)
    try:
        return Sentinels.parse(value).url
    except ValueError as error:
        raise refuse(str(error), SENTINELS) from None


def _socket_url(parts: SplitResult) -> str:
    if not parts.path.strip("/"):
        raise refuse("names no socket", "write redis+socket:///path/to/redis.sock?virtual_host=0")
    query = dict(parse_qsl(parts.query))
    database = query.get("db", query.get("virtual_host", "0")).strip("/") or "0"
    if not database.isdecimal():
        raise refuse("names a database that is not a number", "end it with ?virtual_host=0")
    login = parts.netloc.rpartition("@")[0]
    if "password" in query and not login:
        login = f":{quote(query['password'], safe='')}"
    return f"redis+socket://{login}{'@' if login else ''}{parts.path}?virtual_host={database}"


def _key(secret: SecretStr) -> SecretStr:
    """A secret that goes into an HTTP header: printable ASCII without spaces (leading and trailing ones are cut)."""
    value = secret.get_secret_value().strip()
    if not value:
        raise refuse("is empty", "set it to the key from the Nylas dashboard")
    if not re.fullmatch(r"[!-~]+", value):
        raise refuse("has characters that no key has", "copy it again, without quotes, spaces or line breaks")
    return SecretStr(value)


ENCRYPTION_KEYS = "write name:base64,…, with the key that encrypts first; `sendq keys new NAME` makes one"


def _encryption_keys(secret: SecretStr) -> SecretStr:
    """Keys of a vault (`sendq.vault`)."""
    try:
        Vault.parse(secret.get_secret_value())
    except (ValueError, RuntimeError) as error:  # its text shows no key
        raise refuse(f"cannot be used: {error}", ENCRYPTION_KEYS) from None
    return secret


def _sentry_dsn(secret: SecretStr) -> SecretStr:
    """The address of a Sentry project: public key before the host, project number at the end."""
    parts = _split(secret.get_secret_value().strip())
    if parts.scheme not in ("http", "https") or not (parts.hostname and parts.username):
        raise refuse("is not the DSN of a Sentry project", "copy it from Sentry: https://key@host/number")
    if not parts.path.rpartition("/")[2].isdecimal():
        raise refuse("names no Sentry project", "end it with the project's number: https://key@host/number")
    return SecretStr(parts.geturl())


def _listen_address(value: str) -> str:
    remedy = "write host:port, for example 127.0.0.1:9465 (0.0.0.0 for all interfaces; port 0 for any free one)"
    try:
        host, port = split_address(value)
    except ValueError:
        raise refuse("is not host:port", remedy) from None
    if not host or port > 65535:
        raise refuse("names no host" if not host else "names a port above 65535", remedy)
    return value


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` (IPv6 as ``[::1]:port``); raises `ValueError`."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise ValueError("no address to listen on")
    return host.strip("[]"), int(port)


def nth_address(address: str, number: int) -> str:
    """The address for the first, second, … of several processes on one machine: the next ports. Port 0 stays."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number - 1 if int(port) else 0}"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


Trimmed = BeforeValidator(_strip)


def _unsubscribe_url(url: str) -> str:
    if (fault := url_fault(url)) is not None:
        raise refuse(fault, "write one like https://mail.example.com/unsubscribe")
    return url


UnsubscribeUrl = Annotated[str, Trimmed, AfterValidator(_unsubscribe_url)]
ApiUri = Annotated[str, Trimmed, AfterValidator(_api_uri)]
LedgerUrl = Annotated[SecretUrl, Trimmed, AfterValidator(_ledger_url)]
RedisUrl = Annotated[SecretUrl, Trimmed, AfterValidator(_redis_url)]
Key = Annotated[SecretStr, AfterValidator(_key)]
ListenAddress = Annotated[str, Trimmed, AfterValidator(_listen_address)]
EncryptionKeys = Annotated[SecretStr, AfterValidator(_encryption_keys)]
SentryDsn = Annotated[SecretStr, AfterValidator(_sentry_dsn)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute), PlainSerializer(str, when_used="json")]


def _tag_keys(value: object) -> object:
    if not isinstance(value, str):
        return value
    keys = tuple(dict.fromkeys(key.strip() for key in value.split(",") if key.strip()))
    for number, key in enumerate(keys, 1):
        if (fault := check_tag_key(key)) is not None:
            raise refuse(f"has a key (number {number}) that {fault}", "write keys of tags, like campaign,tenant")
    return keys


TagKeys = Annotated[tuple[str, ...], BeforeValidator(_tag_keys)]
