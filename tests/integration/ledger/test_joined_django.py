"""Joining the caller's transaction: Django's own.

The scenarios are plain functions, because Django settles on its PostgreSQL driver when it is imported, and takes
psycopg 3 if it can: with SQLite and psycopg 3 they run here, with psycopg2 in a process without psycopg 3.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from sendq.errors import KeyConflict
from sendq.ledger.db import joined, migrate, schema
from sendq.ledger.db.engine import open_engine, reading
from sendq.ledger.db.joined import async_connection_of, connection_of
from sendq.queue import SendQueue
from sendq.testing import assert_enqueued, assert_not_enqueued
from tests.integration.ledger.test_concealed_errors import REFUSALS
from tests.integration.ledger.test_joined import GRANT, SECRET, accepted, message
from tests.support.waiting import LIMIT_S

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Shop:
    """An application on Django whose database holds the ledger as well."""

    django: Any  # its connection
    atomic: Callable[..., Any]
    Invoice: Any
    queue: SendQueue
    engine: sa.Engine  # another way into the same database

    def outcome(self) -> tuple[int, int]:
        """Committed invoices, committed jobs."""
        with reading(self.engine) as connection:
            invoices = connection.execute(sa.text("SELECT count(*) FROM shop_invoice")).scalar_one()
        return invoices, accepted(self.engine)

    def sell(self, number: int, **options: Any) -> None:
        """Save a model, and enqueue the mail about it."""
        self.Invoice.objects.using(self.django.alias).create(number=number)
        self.queue.send(GRANT, message(), session=self.django, **options)


def together_in_one_commit(shop: Shop) -> None:
    with shop.atomic():
        shop.sell(1)
        shop.sell(2)
        assert shop.outcome() == (0, 0)
    assert shop.outcome() == (2, 2)


def lost_together_in_a_rollback(shop: Shop) -> None:
    with contextlib.suppress(ZeroDivisionError), shop.atomic():
        shop.sell(1)
        raise ZeroDivisionError
    assert shop.outcome() == (0, 0)


def an_inner_block_rolled_back_loses_its_own(shop: Shop) -> None:
    with shop.atomic():
        shop.sell(1)
        with contextlib.suppress(ZeroDivisionError), shop.atomic():
            shop.sell(2)
            raise ZeroDivisionError
        shop.sell(3)
    assert shop.outcome() == (2, 2)


def outside_of_atomic_it_is_refused(shop: Shop) -> None:
    with pytest.raises(RuntimeError, match=r"atomic\(\)"):
        shop.queue.send(GRANT, message(), session=shop.django)
    assert shop.outcome() == (0, 0)


def a_block_that_failed_already_is_refused(shop: Shop) -> None:
    from django.db.transaction import TransactionManagementError

    with shop.atomic():
        shop.django.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            shop.queue.send(GRANT, message(), session=shop.django)
    assert shop.outcome() == (0, 0)


def its_end_is_djangos_alone(shop: Shop) -> None:
    with contextlib.suppress(ZeroDivisionError), shop.atomic():
        shop.sell(1)
        connection = connection_of(shop.django)
        connection.execute(sa.text("SELECT 1"))
        connection.commit()
        raise ZeroDivisionError
    assert shop.outcome() == (0, 0)
    with shop.atomic():
        shop.sell(2)
        connection = connection_of(shop.django)
        connection.execute(sa.text("SELECT 1"))
        connection.rollback()
        connection.close()
        connection_of(shop.django).invalidate()
        shop.sell(3)
    assert shop.outcome() == (2, 2)


def joining_says_nothing_to_the_database(shop: Shop) -> None:
    """Not even the first time in a process, when SQLAlchemy would like to know whom it talks to."""
    joined._engine.cache_clear()
    with shop.atomic():
        if shop.django.vendor == "sqlite":
            said: list[str] = []
            shop.django.ensure_connection()
            shop.django.connection.set_trace_callback(said.append)
            connection_of(shop.django)
            shop.django.connection.set_trace_callback(None)
            assert said == []
            with shop.django.cursor() as cursor:  # Django's REGEXP knows NULL, SQLAlchemy's would fail on it
                cursor.execute("SELECT NULL REGEXP 'a'")
                assert cursor.fetchone() == (None,)
        else:
            with contextlib.suppress(Exception), shop.django.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
            connection_of(shop.django)  # in a transaction that failed, every statement would be an error
            shop.django.set_rollback(True)


def a_conflict_undoes_its_own_call_alone(shop: Shop) -> None:
    from sendq.enqueueing.options import Options, Send

    with shop.atomic():
        shop.sell(1, key="taken")
        several = [Send(GRANT, message("other"), Options(key=key)) for key in ("fresh", "taken")]
        with pytest.raises(KeyConflict):
            shop.queue.send_many(several, session=shop.django)
        shop.sell(2, key="fresh")
    assert shop.outcome() == (2, 2)


def many_rows_arrive_as_they_are(shop: Shop) -> None:
    ids = [f"message-{number}" for number in range(2_500)]
    with shop.atomic():
        batch = shop.queue.modify(GRANT, ids, unread=False, key="all", session=shop.django)
        job = shop.queue.send(GRANT, message("ünïcode ✓ '%s' \\"), priority="low", session=shop.django)
    assert shop.queue.batch(key="all").id == batch.id
    with shop.engine.connect() as connection:
        wanted = sa.select(schema.job.c.object_id).where(schema.job.c.batch_id.is_not(None))
        assert sorted(connection.scalars(wanted)) == sorted(ids)
        body = connection.scalar(sa.select(schema.payload.c.body))
    assert json.loads(body or b"")["subject"] == "ünïcode ✓ '%s' \\"
    assert shop.queue.job(job.id).state == "queued"


def a_cancelled_job_joins_too(shop: Shop) -> None:
    with shop.atomic():
        job = shop.queue.send(GRANT, message(), session=shop.django)
    with contextlib.suppress(ZeroDivisionError), shop.atomic():
        assert shop.queue.cancel(job.id, session=shop.django) == "cancelled"
        raise ZeroDivisionError
    assert shop.queue.job(job.id).state == "queued"


def what_was_enqueued_is_seen_by_a_test(shop: Shop) -> None:
    with contextlib.suppress(ZeroDivisionError), shop.atomic():
        shop.sell(1, key="invoice-1")
        assert assert_enqueued(shop.queue, key="invoice-1", session=shop.django).grant_id == GRANT
        raise ZeroDivisionError
    assert_not_enqueued(shop.queue)


def the_schema_can_be_asked_about(shop: Shop) -> None:
    with shop.atomic():
        migrate.require(connection_of(shop.django))


def an_error_tells_no_parameter(shop: Shop) -> None:
    row = {"job_id": uuid4(), "body": SECRET.encode(), "content_type": "text/plain"}
    twice = sa.insert(schema.payload).values([row, row])
    with pytest.raises(sa.exc.IntegrityError) as caught, shop.atomic():
        connection_of(shop.django).execute(twice)
    assert SECRET not in str(caught.value)


def nothing_of_a_mail_is_in_an_error_of_the_database(shop: Shop) -> None:
    refusal = REFUSALS["sqlite"]["trigger"] if shop.django.vendor == "sqlite" else REFUSALS["postgresql"]["check"]
    with contextlib.suppress(ZeroDivisionError), shop.atomic():
        with shop.django.cursor() as cursor:
            cursor.execute(refusal)
        with pytest.raises(sa.exc.DBAPIError) as caught:
            shop.sell(1)
        raise ZeroDivisionError
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert [word for word in (SECRET, "leyah", "Invoice 42") if word in shown or word.encode().hex() in shown] == []


def another_thread_is_refused(shop: Shop) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from django.db import DatabaseError

    with shop.atomic(), ThreadPoolExecutor(1) as elsewhere:
        shop.django.ensure_connection()
        wrapper = shop.django
        with pytest.raises(DatabaseError, match="same thread"):
            elsewhere.submit(connection_of, wrapper).result(LIMIT_S)


SCENARIOS: dict[str, Callable[[Shop], None]] = {
    scenario.__name__: scenario
    for scenario in (
        together_in_one_commit,
        lost_together_in_a_rollback,
        an_inner_block_rolled_back_loses_its_own,
        outside_of_atomic_it_is_refused,
        a_block_that_failed_already_is_refused,
        its_end_is_djangos_alone,
        joining_says_nothing_to_the_database,
        a_conflict_undoes_its_own_call_alone,
        many_rows_arrive_as_they_are,
        a_cancelled_job_joins_too,
        what_was_enqueued_is_seen_by_a_test,
        the_schema_can_be_asked_about,
        an_error_tells_no_parameter,
        nothing_of_a_mail_is_in_an_error_of_the_database,
        another_thread_is_refused,
    )
}


@cache
def invoice_model() -> Any:
    """Django, set up once in a process, and a model of it."""
    import django
    from django.conf import settings
    from django.db import models

    settings.configure(DATABASES={}, INSTALLED_APPS=[], USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
    django.setup()

    class Invoice(models.Model):  # type: ignore[misc]
        number = models.IntegerField()

        class Meta:
            app_label = "shop"

    return Invoice


@contextlib.contextmanager
def opened_shop(address: str, **options: Any) -> Iterator[Shop]:
    """The application on a database that is empty; ``options`` are those of Django's database settings."""
    invoice = invoice_model()
    from django.db import connections, transaction

    url = sa.make_url(address)
    kind = "sqlite3" if url.get_backend_name() == "sqlite" else "postgresql"
    database: dict[str, Any] = {"ENGINE": f"django.db.backends.{kind}", "NAME": url.database, "OPTIONS": options}
    database |= {"HOST": url.host or "", "PORT": url.port or "", "USER": url.username or ""}
    alias = f"shop-{uuid4()}"
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: database})[alias]
    engine, queue = open_engine(url), SendQueue(url)
    try:
        migrate.upgrade(engine)
        with connections[alias].schema_editor() as editor:
            editor.create_model(invoice)
        yield Shop(connections[alias], partial(transaction.atomic, alias), invoice, queue, engine)
    finally:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]
        queue.close()
        engine.dispose()


def clear(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        for table in (schema.job, schema.payload, schema.batch, schema.batch_change, schema.key, schema.wake):
            connection.execute(sa.delete(table))
        connection.execute(sa.text("DELETE FROM shop_invoice"))


def run_scenarios(address: str) -> None:
    """What the process with psycopg2 runs: prints the driver, and for each scenario how it failed, if it did."""
    failures: dict[str, str | None] = {}
    with opened_shop(address) as shop:
        for name, scenario in SCENARIOS.items():
            clear(shop)
            try:
                scenario(shop)
                failures[name] = None
            except BaseException:
                failures[name] = traceback.format_exc()
        print(json.dumps([shop.django.Database.__name__, failures]))


@pytest.fixture(scope="module", params=["sqlite", "psycopg", "psycopg, parameters bound by the server"])
def open_shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    if request.param == "sqlite":
        with opened_shop(f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}") as shop:
            yield shop
        return
    server = request.getfixturevalue("pg_server")
    options = {"server_side_binding": True} if "server" in request.param else {}
    with server.database() as name, opened_shop(server.url(name), **options) as shop:
        assert shop.django.Database.__name__ == "psycopg"
        yield shop


class TestAJobInDjangosTransaction:
    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_is(self, open_shop: Shop, scenario: str) -> None:
        clear(open_shop)
        SCENARIOS[scenario](open_shop)


@pytest.fixture(scope="module")
def failures(request: pytest.FixtureRequest) -> Any:
    program = (
        "import sys; sys.modules['psycopg'] = None; from tests.integration.ledger import test_joined_django;"
        "test_joined_django.run_scenarios(sys.argv[1])"
    )
    server = request.getfixturevalue("pg_server")
    with server.database() as name:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, server.url(name, driver="psycopg2")],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    driver, failures = json.loads(done.stdout)
    assert driver == "psycopg2"
    return failures


class TestAJobInDjangosTransactionOnPsycopg2:
    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_is(self, failures: dict[str, str | None], scenario: str) -> None:
        assert failures[scenario] is None, failures[scenario]


class TestAnAsyncQueue:
    def test_takes_no_connection_of_djangos(self, tmp_path: Path) -> None:
        wanted = pytest.raises(TypeError, match="use SendQueue, inside sync_to_async")
        with opened_shop(f"sqlite:///{tmp_path / 'shop.db'}") as shop, wanted:
            async_connection_of(shop.django)
