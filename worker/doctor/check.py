"""``sendq check``: does a worker have everything it needs? One line per check: what was found, and how to fix it.

Nothing is started, created or changed. What cannot be queried is ``unknown``, never ``ok``: managed servers often
refuse such commands. No line contains a secret, and no check ends in a traceback.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sendq.clock import SECOND
from sendq.errors import LedgerUnavailable, SendqError
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, reading
from sendq.ledger.db.rights import try_writing
from sendq.ledger.db.signals import NoNotifications, listen, server_time
from sendq.ledger.enqueue import CHANNEL
from sendq.redaction import redact
from sendq.rules.windows import has_zones
from settings import Application, Settings, SettingsError
from settings.celery import foreign_variables, why_ignored
from settings.otel import otel_problems
from settings.values import split_address
from worker.configured_policy import policy_of
from worker.doctor.check_redis import redis_items
from worker.doctor.finding import PATIENCE_S, CheckItem, clock_item

LEAST_POSTGRES = (14,)

SCHEMA_REMEDY = {
    "missing": f"run: {migrate.COMMAND}",
    "older": f"run: {migrate.COMMAND}",
    "newer": "install the version of sendq that created it, or a later one",
}


def check(environ: Mapping[str, str] | None = None) -> list[CheckItem]:
    """Run all checks, starting with the settings in ``environ`` (default: the process's environment)."""
    try:
        settings = Settings.load(environ)
    except SettingsError as error:
        return list(_mistakes("settings", error))
    environ = os.environ if environ is None else environ
    items = run_checks(settings)
    items[1:1] = _mistakes("traces", SettingsError(otel_problems(environ)))
    if ignored := foreign_variables(environ):
        items.insert(1, CheckItem("settings", "warn", why_ignored(ignored), "remove what is not for sendq"))
    return items


def run_checks(settings: Settings) -> list[CheckItem]:
    """Check each application's API key, the ledger and the broker, in this order."""
    names = ", ".join(settings.applications)
    items = [CheckItem("settings", "ok", f"valid; applications: {names}")]
    for name, application in settings.applications.items():
        items += _guarded(f"api {name}", lambda application=application: api_items(application))  # type: ignore[misc]
    items += _guarded("settings", lambda: file_items(settings))
    items += _guarded("ledger", lambda: ledger_items(settings))
    items += _guarded("redis", lambda: redis_items(settings))
    return items


def lines(items: Iterable[CheckItem]) -> Iterator[str]:
    """The items as text, one line each."""
    for item in items:
        yield redact(f"{item.state:<8}{item.name:<18} {item.says}{f'; {item.remedy}' if item.remedy else ''}")


def exit_code(items: Iterable[CheckItem]) -> int:
    """0 if a worker can run, 2 if something must be fixed first."""
    return 2 if any(item.state == "fail" for item in items) else 0


def _guarded(name: str, asked: Callable[[], Iterator[CheckItem]]) -> Iterator[CheckItem]:
    """Report an unexpected exception as an item, so that the other checks go on."""
    try:
        yield from asked()
    except Exception as error:
        yield CheckItem(
            name, "unknown", f"the check failed unexpectedly ({type(error).__name__})", "please report this"
        )


def _mistakes(name: str, error: SettingsError) -> Iterator[CheckItem]:
    for problem in error.problems:
        yield CheckItem(name, "fail", f"{problem.field} {problem.reason}", problem.remedy)


def file_items(settings: Settings) -> Iterator[CheckItem]:
    """What a worker refuses at its start, or what would fail later: the policy file, time zones, the metrics port."""
    try:
        policy_of(settings)
    except SettingsError as error:
        yield from _mistakes("policy file", error)
    else:
        if settings.policy_file is not None:
            yield CheckItem("policy file", "ok", "is valid")
    if settings.reauth_url is not None and "{grant_id}" not in settings.reauth_url:
        remedy = "write it where the page takes the grant's id, like https://app.example.com/reconnect?grant={grant_id}"
        yield CheckItem("reauth page", "fail", "SENDQ_REAUTH_URL does not contain {grant_id}", remedy)
    if not has_zones():
        says = "this machine has none, so no job that has a window is sent"
        yield CheckItem("time zones", "fail", says, "install the package tzdata, of the system or with pip")
    if settings.metrics_address is not None:
        yield _metrics_item(settings.metrics_address)


def _metrics_item(address: str) -> CheckItem:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_ours(host, port):
                return CheckItem("metrics", "ok", f"a worker serves them on {address}")
            remedy = "set SENDQ_METRICS_ADDRESS to a free port of this machine; each worker needs its own"
            return CheckItem("metrics", "fail", f"{address} cannot be listened on ({error.strerror})", remedy)
    return CheckItem("metrics", "ok", f"{address} is free")


def _is_ours(host: str, port: int) -> bool:
    """Whether the port is taken by a worker of sendq, which is what it is for."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # all addresses: ask at one of them
    connection = http.client.HTTPConnection(here, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/metrics")
        return b"sendq_worker_info" in connection.getresponse().read(1 << 20)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def api_items(application: Application) -> Iterator[CheckItem]:
    """Whether the API accepts this application's key: one cheap request, ``GET /v3/grants?limit=1``."""
    name = f"api {application.name}"
    try:
        key = application.api_key().get_secret_value()
    except SettingsError as error:
        yield from _mistakes(name, error)
        return
    uri = application.variable("api_uri")
    try:
        status, body = _get(application.api_uri, "/v3/grants?limit=1", key)
    except ssl.SSLCertVerificationError:
        yield CheckItem(
            name, "fail", "has no certificate that this machine trusts", f"check {uri}, and any proxy in between"
        )
    except TimeoutError:
        yield CheckItem(name, "fail", f"does not answer within {PATIENCE_S:.0f} s", "check the network")
    except (OSError, http.client.HTTPException):
        yield CheckItem(name, "fail", "cannot be reached", f"check {uri} and the network")
    else:
        yield _answer_item(name, application, status, body)


def _get(api_uri: str, path: str, key: str) -> tuple[int, bytes]:
    """Status and the first MiB of the body. Redirects are not followed, so that the key is sent nowhere else."""
    parts = urlsplit(api_uri)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}", "Accept": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(1 << 20)
    finally:
        connection.close()


def _answer_item(name: str, application: Application, status: int, body: bytes) -> CheckItem:
    uri = application.variable("api_uri")
    key = application.variable("api_key" if application.key_file is None else "api_key_file")
    if status == 200:
        try:
            if isinstance(json.loads(body)["data"], list):
                return CheckItem(name, "ok", f"{application.api_uri} accepts the key")
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
    if status in (401, 403):
        remedy = f"check {key}, and that {uri} is the application's region"
        return CheckItem(name, "fail", f"rejects the key (status {status})", remedy)
    if status == 429 or status >= 500:
        return CheckItem(
            name, "warn", f"answers with status {status}, so the key could not be tried", "check again later"
        )
    return CheckItem(name, "fail", f"answers with status {status}, but not as the Nylas API does", f"check {uri}")


def ledger_items(settings: Settings) -> Iterator[CheckItem]:
    """Whether the ledger answers, is new enough, and has this version's schema."""
    url = make_url(settings.ledger_url.get_secret_value())
    if url.drivername == "sqlite":
        if not Path(url.database or "").exists():
            remedy = f"run: {migrate.COMMAND}" if settings.database_url else "`sendq up` creates it"
            yield CheckItem("ledger", "warn", "the SQLite file does not exist yet", remedy)
            return
    elif "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": f"{PATIENCE_S:.0f}"})
    engine = open_engine(url)
    try:
        database, schema = _database_item(engine), _schema_item(engine)
        yield _writes_item(engine, database) if schema.state == database.state == "ok" else database
        yield schema
        if engine.dialect.name == "postgresql":
            yield _clock_item(engine)
            yield from _notification_items(engine)
    except (SendqError, SQLAlchemyError) as error:
        reason, remedy = _meaning(error)
        yield CheckItem("ledger", "fail", reason, remedy)
    finally:
        engine.dispose()


def _database_item(engine: Engine) -> CheckItem:
    with reading(engine) as connection:
        version = connection.dialect.server_version_info or (0,)
        dotted = ".".join(map(str, version))
        if engine.dialect.name == "postgresql":
            if version < LEAST_POSTGRES:
                return CheckItem("ledger", "fail", f"PostgreSQL {dotted} is too old", "use PostgreSQL 14 or later")
            return CheckItem("ledger", "ok", f"PostgreSQL {dotted}")
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    if journal != "wal":
        remedy = "put the file on a local disk; network file systems do not support it"
        return CheckItem("ledger", "fail", f"SQLite {dotted} cannot use a write-ahead log there", remedy)
    return CheckItem("ledger", "ok", f"SQLite {dotted}, write-ahead log")


def _schema_item(engine: Engine) -> CheckItem:
    schema = migrate.state(engine)
    if schema.status == "ok":
        return CheckItem("ledger schema", "ok", f"at {schema.wanted}")
    if schema.status == "ahead":
        return CheckItem(
            "ledger schema", "ok", f"at {schema.found}, a compatible addition to this version's {schema.wanted}"
        )
    says = "does not exist" if schema.status == "missing" else f"is {schema.found}, {schema.status} than this code"
    return CheckItem("ledger schema", "fail", says, SCHEMA_REMEDY[schema.status])


def _writes_item(engine: Engine, database: CheckItem) -> CheckItem:
    """``database``, unless the ledger takes no writes, or not by this user. What is written is rolled back."""
    refused = try_writing(engine)
    if not refused:
        return database
    tables = ", ".join(refused)
    remedy = (
        "grant the user SELECT, INSERT, UPDATE and DELETE on all tables named sendq_…, and USAGE on their sequences, "
        "as deploy/roles.sql does"
    )
    return CheckItem("ledger", "fail", f"the database user may not write to {tables}", remedy)


def _clock_item(engine: Engine) -> CheckItem:
    with reading(engine) as connection:
        before = time.time()
        theirs = server_time(connection)
        assert theirs is not None  # not asked of SQLite
        return clock_item("ledger clock", theirs / SECOND, before, time.time())


def _notification_items(engine: Engine) -> Iterator[CheckItem]:
    """A warning if a pooler keeps the notifications of new jobs back."""
    try:
        listen(engine, CHANNEL).close()
    except NoNotifications:
        says = "a pooler keeps notifications back, so workers look for new jobs 20 times a second"
        remedy = "nothing to do, or connect workers directly or with pool_mode = session"
        yield CheckItem("ledger notifications", "warn", says, remedy)
    except Exception as error:
        reason, remedy = _meaning(error)
        yield CheckItem("ledger notifications", "warn", reason, remedy)


# Part of the driver's message (which may quote names and addresses) -> what is wrong, what to do.
REFUSALS = {
    "authentication failed": ("rejects the user or password", "correct them in DATABASE_URL"),
    "no password supplied": ("requires a password", "add it to DATABASE_URL"),
    "does not exist": ("has no such database or user", "create it, or correct DATABASE_URL"),
    "too many": ("has no connection left", "raise max_connections, or put PgBouncer in front"),
    "timeout": (f"does not answer within {PATIENCE_S:.0f} s", "check the address, and any firewall in between"),
    "resolve": ("has a host name that does not resolve", "correct the host in DATABASE_URL"),
    "certificate": ("has no certificate that this machine trusts", "add ?sslrootcert=/path/ca.pem to DATABASE_URL"),
    "not a database": ("is not an SQLite database", "correct DATABASE_URL"),
}


def _meaning(error: Exception) -> tuple[str, str]:
    """What is wrong and what to do, without the driver's message."""
    said = f"{error} {error.__cause__ or ''}"
    if isinstance(error, LedgerUnavailable) and isinstance(error.__cause__, DBAPIError) and error.__cause__.statement:
        says, _, remedy = str(error).partition("; ")  # of a statement; the others are about the connection
        return says, remedy
    for words, meaning in REFUSALS.items():
        if words in said:
            return meaning
    return "cannot be reached", "check DATABASE_URL and that the server is running"
