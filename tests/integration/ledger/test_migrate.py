"""The ledger's schema inside a database: upgrades, what they print, and an application's own Alembic beside them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import sendq
import sendq.alembic
from sendq import __main__ as command_line
from sendq.errors import LedgerUnavailable, SchemaMismatch
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine
from sendq.ledger.db.schema import VERSION_TABLE, leader, metadata
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S

NOBODY_LISTENS = "postgresql://somebody:secret@127.0.0.1:1/ledger"
PACKAGE = Path(sendq.__path__[0])
LAST = migrate.wanted()
ALL = [f"{number:04}" for number in range(1, int(LAST) + 1)]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("pg_url"))


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = open_engine(url)
    yield engine
    engine.dispose()


def definitions(engine: sa.Engine) -> list[Any]:
    """Everything that the database itself says about its indexes, constraints and columns, in no order of columns."""
    if engine.dialect.name == "sqlite":
        asked = [
            "SELECT name, sql FROM sqlite_master WHERE type != 'table'",
            'SELECT t.name, c.name, c.type, c."notnull", c.dflt_value, c.pk'
            " FROM sqlite_master AS t, pragma_table_info(t.name) AS c WHERE t.type = 'table'",
        ]
    else:
        asked = [
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            "SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace",
            "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity"
            " FROM information_schema.columns WHERE table_schema = 'public'",
            "SELECT sequence_name, data_type FROM information_schema.sequences",
        ]
    with engine.connect() as connection:
        answers = [connection.exec_driver_sql(question).all() for question in asked]
    return sorted(str(row) for answer in answers for row in answer if VERSION_TABLE not in str(row))


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def set_version(engine: sa.Engine, revision: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = :revision"), {"revision": revision})


class TestAnUpgrade:
    def test_makes_what_the_schema_has_and_nothing_else(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        assert tables(engine) == {*metadata.tables, VERSION_TABLE}
        with engine.connect() as connection:
            options = {"version_table": VERSION_TABLE, "compare_server_default": True}
            assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []

    def test_makes_it_to_the_letter(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        by_revisions = definitions(engine)
        with engine.begin() as connection:
            metadata.drop_all(connection)
            metadata.create_all(connection)
        assert by_revisions == definitions(engine)
        assert len(by_revisions) > len(metadata.tables)

    def test_says_what_it_did(self, engine: sa.Engine) -> None:
        assert migrate.upgrade(engine) == migrate.Upgrade(before=None, after=LAST, applied=tuple(ALL))

    def test_does_nothing_the_second_time(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        assert migrate.upgrade(engine) == migrate.Upgrade(before=LAST, after=LAST, applied=())

    def test_leaves_a_lease_that_anybody_may_take(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        with engine.connect() as connection:
            columns = (leader.c.name, leader.c.holder, leader.c.fence, leader.c.expires_at, leader.c.sleeps_until)
            assert connection.execute(sa.select(*columns)).all() == [("dispatcher", None, 0, 0, 0)]

    def test_that_fails_leaves_nothing_behind(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE sendq_worker (in_the_way INTEGER)"))
        with pytest.raises(sa.exc.DBAPIError, match="already exists"):
            migrate.upgrade(engine)
        assert tables(engine) == {"sendq_worker"}

    def test_refuses_a_database_that_is_newer(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        set_version(engine, "9999")
        with pytest.raises(SchemaMismatch, match="upgrade sendq"):
            migrate.upgrade(engine)

    def test_serves_an_engine_that_is_not_ours(self, url: str) -> None:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE sendq_worker (in_the_way INTEGER)"))
        with pytest.raises(sa.exc.DBAPIError, match="already exists"):
            migrate.upgrade(engine)
        assert tables(engine) == {"sendq_worker"}
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE sendq_worker"))
        migrate.upgrade(engine)
        migrate.require(engine)
        engine.dispose()


class TestSeveralUpgradesAtOnce:
    def test_by_processes_are_one(self, url: str) -> None:
        program = [sys.executable, "-m", "sendq", "migrate", "--json", "--url", url]
        running = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        said = [process.communicate(timeout=LIMIT_S) for process in running]
        assert [errors for _, errors in said] == [b""] * 4
        applied = [json.loads(answer)["applied"] for answer, _ in said]
        assert sorted(applied) == [[], [], [], ALL]

    @pytest.mark.parametrize("options", [{}, {"isolation_level": "SERIALIZABLE"}, {"isolation_level": "AUTOCOMMIT"}])
    def test_by_threads_are_one_whatever_the_isolation(self, pg_url: str, options: dict[str, Any]) -> None:
        engine = open_engine(pg_url, **options)
        together = threading.Barrier(4)
        done: list[migrate.Upgrade] = []

        def upgrade() -> None:
            with engine.connect():  # the pool has four connections open before the first one migrates
                together.wait(LIMIT_S)
            done.append(migrate.upgrade(engine))

        threads = [threading.Thread(target=upgrade) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        engine.dispose()
        assert sorted(len(each.applied) for each in done) == [0, 0, 0, len(ALL)]

    def test_wait_for_the_first_and_see_what_it_did(self, pg_url: str) -> None:
        engine = open_engine(pg_url, isolation_level="REPEATABLE READ")
        done: list[migrate.Upgrade] = []
        with engine.begin() as first:
            first.execute(sa.select(sa.func.pg_advisory_xact_lock(migrate.LOCK)))
            second = threading.Thread(target=lambda: done.append(migrate.upgrade(engine)))
            second.start()
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
                deadline = time.monotonic() + LIMIT_S
                while not watcher.scalar(waiting):
                    assert time.monotonic() < deadline, "nobody waits for the lock"
            assert not done
            migrate._upgrade(first, "head")
        second.join(LIMIT_S)
        engine.dispose()
        assert done == [migrate.Upgrade(before=LAST, after=LAST, applied=())]


class TestTheDoorOfThePackage:
    def test_tells_who_wants_another_command_where_it_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            command_line.main(["status"])
        assert end.value.code == 2
        assert "invalid choice: 'status'" in (said := capsys.readouterr().err)
        assert said.endswith(f"{command_line.ELSEWHERE}\n")


class TestASchema:
    def test_that_is_missing_names_the_command(self, engine: sa.Engine) -> None:
        assert migrate.state(engine) == migrate.SchemaState(None, LAST, "missing")
        with pytest.raises(SchemaMismatch, match="run: python -m sendq migrate"):
            migrate.require(engine)

    def test_that_fits_is_let_through(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        assert migrate.state(engine) == migrate.SchemaState(LAST, LAST, "ok")
        migrate.require(engine)

    def test_that_is_newer_asks_for_newer_code(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        set_version(engine, "9999")
        assert migrate.state(engine) == migrate.SchemaState("9999", LAST, "newer")
        with pytest.raises(SchemaMismatch, match=r"9999.*upgrade sendq"):
            migrate.require(engine)

    def test_that_only_grew_is_let_through(self, engine: sa.Engine) -> None:
        migrate.upgrade(engine)
        for step in (f"{LAST}.1", f"{LAST}.12"):
            set_version(engine, step)
            assert migrate.require(engine) == migrate.SchemaState(step, LAST, "ahead")
            assert migrate.upgrade(engine) == migrate.Upgrade(step, step, ())

    def test_can_be_asked_about_inside_the_callers_transaction(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE TABLE mine (id INTEGER)"))
            with pytest.raises(SchemaMismatch):
                migrate.require(connection)
            connection.execute(sa.text("INSERT INTO mine VALUES (1)"))
            connection.commit()
        assert tables(engine) == {"mine"}

    def test_of_a_database_out_of_reach_is_not_called_missing(self) -> None:
        with pytest.raises(LedgerUnavailable):
            migrate.state(open_engine(NOBODY_LISTENS))


class TestThePrintedStatements:
    def test_make_the_same_when_a_person_runs_them(self, engine: sa.Engine, url: str) -> None:
        printed = migrate.sql(url)
        if engine.dialect.name == "sqlite":
            connection = sqlite3.connect(sa.make_url(url).database or "")
            connection.executescript(printed)
            connection.close()
        else:
            plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain, autocommit=True) as postgres:
                postgres.execute(printed.encode())
        migrate.require(engine)
        by_hand = definitions(engine)
        with engine.begin() as connection_:
            metadata.drop_all(connection_)
            connection_.execute(sa.text(f"DROP TABLE {VERSION_TABLE}"))
        migrate.upgrade(engine)
        assert by_hand == definitions(engine)

    @pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
    def test_need_no_more_than_the_databases_name(self, dialect: str) -> None:
        assert "CREATE TABLE sendq_job" in migrate.sql(dialect)

    def test_begin_where_the_database_is(self) -> None:
        assert "CREATE TABLE" not in migrate.sql("postgresql", from_=LAST)

    def test_are_all_or_nothing(self) -> None:
        lines = migrate.sql("sqlite").split()
        assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")


class TestTheCommand:
    def test_migrates(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert command_line.main(["migrate", "--url", url]) == 0
        assert capsys.readouterr() == (f"applied {', '.join(ALL)}; the ledger's schema is now {LAST}\n", "")
        assert command_line.main(["migrate", "--url", url]) == 0
        assert capsys.readouterr() == (f"the ledger's schema is already {LAST}; nothing to do\n", "")

    @pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
    def test_speaks_through_the_driver_that_the_url_names(
        self, pg_url: str, driver: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = sa.make_url(pg_url).set(drivername=driver).render_as_string(hide_password=False)
        assert command_line.main(["migrate", "--json", "--url", other]) == 0
        assert json.loads(capsys.readouterr().out) == {"before": None, "after": LAST, "applied": ALL}

    def test_speaks_through_aiosqlite(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert command_line.main(["migrate", "--url", f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"]) == 0
        assert "applied" in capsys.readouterr().out

    def test_takes_the_url_from_the_environment(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", url)
        assert command_line.main(["migrate"]) == 0
        assert "applied" in capsys.readouterr().out

    def test_prints_statements_without_a_server(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command_line.main(["migrate", "--sql", "--url", NOBODY_LISTENS]) == 0
        assert "CREATE TABLE sendq_job" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            (NOBODY_LISTENS, "cannot be reached"),
            (NOBODY_LISTENS.replace("://", "+asyncpg://"), "cannot be reached"),
            (NOBODY_LISTENS.replace("://", "+pg8000://"), "is not installed"),
            ("sqlite:////no/such/directory/ledger.db", "cannot be opened"),
            ("mysql://somebody:secret@127.0.0.1/ledger", "cannot live in 'mysql'"),
            ("secret", "not a database URL"),
            ("", "use --url or set DATABASE_URL"),
        ],
    )
    def test_answers_a_mistake_with_one_sentence(
        self, wrong: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("DATABASE_URL", raising=False)
        assert command_line.main(["migrate", "--url", wrong]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert sentence in said.err
        assert "secret" not in said.err

    def test_repeats_what_the_database_refuses(
        self, pg_server: PgServer, pg_url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pg_server.execute("DROP ROLE IF EXISTS guest")
        pg_server.execute("CREATE ROLE guest LOGIN")
        guest = sa.make_url(pg_url).set(username="guest").render_as_string(hide_password=False)
        assert command_line.main(["migrate", "--url", guest]) == 2
        assert capsys.readouterr().err == "sendq: the database reported: permission denied for schema public\n"


class TestANewRevision:
    """Written in a copy of the package, for it is written where the package is."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Any:
        shutil.copytree(PACKAGE, tmp_path / "sendq", ignore=shutil.ignore_patterns("__pycache__"))

        def run(*program: str) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
            return subprocess.run(
                [sys.executable, *program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )

        return run

    def test_is_not_written_when_nothing_changed(self, run: Any, tmp_path: Path) -> None:
        said = run("-m", "sendq.ledger.db.migrations.new", "nothing")
        assert (said.returncode, said.stdout) == (2, "")
        assert "nothing to write" in said.stderr
        assert not list(tmp_path.rglob("*_nothing.py"))

    @pytest.mark.parametrize(
        ("change", "following", "status"),
        [
            ('worker.append_column(Column("mood", Text))', f"{LAST}.1", "ahead"),
            ('worker.append_column(Column("mood", Text, nullable=False, server_default="x"))', f"{LAST}.1", "ahead"),
            ('Index("sendq_worker_name_idx", worker.c.name)', f"{LAST}.1", "ahead"),
            ('Index("sendq_worker_name_idx", worker.c.name, unique=True)', f"{int(LAST) + 1:04}", "newer"),
        ],
    )
    def test_takes_a_database_from_the_old_schema_to_the_new_and_says_who_may_stay(
        self, run: Any, tmp_path: Path, change: str, following: str, status: migrate.Status
    ) -> None:
        database = f"sqlite:///{tmp_path / 'ledger.db'}"
        migrate.run(database)
        schema = tmp_path / "sendq" / "ledger" / "db" / "schema.py"
        changed = f'{change}\nmood = Table("sendq_mood", metadata, Column("id", Uuid))\n'
        schema.write_text(f"{schema.read_text()}\n{changed}")

        assert run("-m", "sendq.ledger.db.migrations.new", "moods").returncode == 0
        script = tmp_path / "sendq" / "ledger" / "db" / "migrations" / "versions" / f"{following}_moods.py"
        assert f"down_revision = '{LAST}'" in script.read_text()
        asked = f"from sendq.ledger.db import engine, migrate; migrate.require(engine.open_engine({database!r}))"
        refusal = f"schema is {LAST}, this code needs {following}; run: python -m sendq migrate"
        assert refusal in run("-c", asked).stderr
        assert run("-m", "sendq", "migrate", "--url", database).stdout.startswith(f"applied {following};")
        assert run("-c", asked).returncode == 0
        engine = open_engine(database)
        assert migrate.state(engine) == migrate.SchemaState(following, LAST, status)
        engine.dispose()


APPLICATION_ENV = """
import sqlalchemy as sa
from alembic import context

metadata = sa.MetaData()
sa.Table("shop_order", metadata, sa.Column("id", sa.Integer, primary_key=True))
with sa.create_engine(context.config.attributes["url"], poolclass=sa.NullPool).connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, **context.config.attributes["filters"])
    with context.begin_transaction():
        context.run_migrations()
"""


class TestAnApplicationsOwnAutogenerate:
    """`alembic revision --autogenerate`, run for an application whose database holds the ledger as well."""

    @pytest.fixture
    def written(self, engine: sa.Engine, url: str, tmp_path: Path) -> Any:
        import alembic

        migrate.upgrade(engine)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE shop_old (id INTEGER)"))
        home = tmp_path / "application"
        (home / "versions").mkdir(parents=True)
        (home / "env.py").write_text(APPLICATION_ENV)
        shutil.copy(Path(alembic.__path__[0]) / "templates" / "generic" / "script.py.mako", home)

        def autogenerate(**filters: Any) -> str:
            config = Config(attributes={"url": url, "filters": filters})
            config.set_main_option("script_location", str(home))
            script = command.revision(config, "orders", autogenerate=True)
            return Path(script.path).read_text()  # type: ignore[union-attr]

        return autogenerate

    @pytest.mark.parametrize("names", [["include_name"], ["include_object"], ["include_name", "include_object"]])
    def test_leaves_our_tables_alone(self, written: Any, names: list[str]) -> None:
        text = written(**{name: getattr(sendq.alembic, name) for name in names})
        assert "sendq_" not in text
        assert "create_table('shop_order'" in text
        assert "drop_table('shop_old')" in text

    def test_would_drop_them_without_the_filter(self, written: Any) -> None:
        assert "drop_table('sendq_job')" in written()
