"""`sendq check` against real servers, well and ill."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import text

from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine
from sendq.simulator import Simulator
from settings import Settings
from tests.support.servers import PgServer
from tests.support.system import ROOT
from worker.doctor import check as checks
from worker.doctor import check_redis
from worker.doctor.check import check, exit_code, lines, run_checks
from worker.doctor.check_redis import RIGHTS
from worker.doctor.finding import CheckItem, clock_item
from worker.redis.embedded import NO_SERVER, EmbeddedError, EmbeddedRedis, redis_client

GRANTS = b'{"request_id": "1", "data": [], "limit": 1, "offset": 0}'


def find(items: list[CheckItem], name: str) -> CheckItem:
    (item,) = [item for item in items if item.name == name]
    return item


@dataclasses.dataclass
class Api:
    """An HTTP server that gives one answer, and remembers who asked for what."""

    uri: str
    status: int = 200
    body: bytes = GRANTS
    asked: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)


@pytest.fixture
def api() -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append((self.path, self.headers["Authorization"]))
            self.send_response(served.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(served.body)))
            self.end_headers()
            self.wfile.write(served.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Api(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(api: Api, pg_url: str, redis_url: str) -> Settings:
    """Settings with which all is well."""
    migrate.run(pg_url)
    return Settings(nylas_api_key="hush", nylas_api_uri=api.uri, database_url=pg_url, redis_url=redis_url)


def api_item(api: Api) -> CheckItem:
    (item,) = checks.api_items(Settings(nylas_api_key="hush", nylas_api_uri=api.uri).application())
    return item


def ledger_item(url: str) -> CheckItem:
    return next(checks.ledger_items(Settings(database_url=url)))


def redis_items(url: str) -> list[CheckItem]:
    return list(check_redis.redis_items(Settings(redis_url=url)))


class TestWhenAllIsWell:
    def test_every_item_is_ok_and_a_worker_may_start(self, settings: Settings) -> None:
        items = run_checks(settings)
        assert [(item.name, item.state) for item in items] == [
            ("settings", "ok"),
            ("api default", "ok"),
            ("ledger", "ok"),
            ("ledger schema", "ok"),
            ("ledger clock", "ok"),
            ("redis", "ok"),
            ("redis rights", "ok"),
            ("redis eviction", "ok"),
            ("redis persistence", "ok"),
            ("redis clock", "ok"),
        ]
        assert exit_code(items) == 0

    def test_there_is_one_line_per_item_and_no_secret_in_it(self, settings: Settings) -> None:
        items = run_checks(settings)
        printed = list(lines(items))
        assert len(printed) == len(items)
        assert all("\n" not in line for line in printed)
        assert "hush" not in "".join(printed)
        assert printed[2].split()[:3] == ["ok", "ledger", "PostgreSQL"]


class TestTheSettings:
    def test_that_do_not_load_are_told_line_by_line(self) -> None:
        items = check({"SENDQ_CONCURRENCY": "0", "REDIS_URL": "amqp://h"})
        assert [item.state for item in items] == ["fail", "fail"]
        assert exit_code(items) == 2
        assert list(lines(items))[1].startswith("fail    settings           SENDQ_CONCURRENCY should be greater than")


class TestTheApi:
    def test_is_asked_once_with_the_key(self, api: Api) -> None:
        assert api_item(api).state == "ok"
        assert api.asked == [("/v3/grants?limit=1", "Bearer hush")]

    @pytest.mark.parametrize(
        ("status", "body", "state", "says"),
        [
            (401, b"{}", "fail", "rejects the key"),
            (403, b"{}", "fail", "rejects the key"),
            (404, b"<html>", "fail", "not as the Nylas API does"),
            (200, b"<html>", "fail", "not as the Nylas API does"),
            (200, b'{"data": {}}', "fail", "not as the Nylas API does"),
            (200, b"[]", "fail", "not as the Nylas API does"),
            (302, b"", "fail", "not as the Nylas API does"),
            (429, b"{}", "warn", "the key could not be tried"),
            (503, b"{}", "warn", "the key could not be tried"),
        ],
    )
    def test_that_answers_otherwise_is_told(self, api: Api, status: int, body: bytes, state: str, says: str) -> None:
        api.status, api.body = status, body
        item = api_item(api)
        assert (item.state, len(api.asked)) == (state, 1)
        assert says in item.says

    def test_is_told_from_a_simulator_by_its_key_alone(self) -> None:
        with Simulator() as nylas:
            for key, state in (("test-key", "ok"), ("another", "fail")):
                application = Settings(nylas_api_key=key, nylas_api_uri=nylas.url).application()
                assert [item.state for item in checks.api_items(application)] == [state]

    def test_that_refuses_the_key_of_a_file_names_the_file(self, api: Api, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("hush")
        api.status = 401
        settings = Settings(nylas_api_key_file=tmp_path / "key", nylas_api_uri=api.uri)
        (item,) = checks.api_items(settings.application())
        assert item.remedy is not None
        assert item.remedy.startswith("check NYLAS_API_KEY_FILE, ")

    def test_that_nobody_serves_is_told(self) -> None:
        item = api_item(Api("http://127.0.0.1:1"))
        assert (item.state, item.says) == ("fail", "cannot be reached")
        assert "NYLAS_API_URI" in item.remedy

    def test_without_a_key_is_not_asked(self, api: Api) -> None:
        (item,) = checks.api_items(Settings(nylas_api_uri=api.uri).application())
        assert (item.state, item.says, api.asked) == ("fail", "NYLAS_API_KEY is not set", [])

    def test_of_every_application_is_asked(self, api: Api, tmp_path: Path) -> None:
        named = {name: {"api_key": name, "api_uri": api.uri} for name in ("a", "b")}
        items = run_checks(Settings(named_applications=named, home=tmp_path))
        assert [item.name for item in items[:3]] == ["settings", "api a", "api b"]
        assert [key for _, key in api.asked] == ["Bearer a", "Bearer b"]


class TestTheLedger:
    def test_on_sqlite_is_told_with_its_journal(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/s.db"
        migrate.run(url)
        items = list(checks.ledger_items(Settings(database_url=url)))
        assert [item.state for item in items] == ["ok", "ok"]
        assert "write-ahead log" in items[0].says

    def test_that_is_not_there_yet_is_not_made(self, tmp_path: Path) -> None:
        item = ledger_item(f"sqlite:///{tmp_path}/s.db")
        assert (item.state, item.remedy) == ("warn", "run: python -m sendq migrate")
        assert not (tmp_path / "s.db").exists()

    def test_that_is_another_file_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "s.db").write_text("no database" * 100)
        assert ledger_item(f"sqlite:///{tmp_path}/s.db").says == "is not an SQLite database"

    def test_without_tables_names_the_command(self, pg_url: str) -> None:
        schema = find(list(checks.ledger_items(Settings(database_url=pg_url))), "ledger schema")
        assert (schema.state, schema.says, schema.remedy) == ("fail", "does not exist", "run: python -m sendq migrate")

    def test_newer_than_this_code_says_so(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/s.db"
        migrate.run(url)
        with sqlite3.connect(tmp_path / "s.db") as connection:
            connection.execute("UPDATE sendq_version SET version_num = 'from_the_future'")
        connection.close()
        schema = find(list(checks.ledger_items(Settings(database_url=url))), "ledger schema")
        assert schema.says == "is from_the_future, newer than this code"

    def test_that_nobody_serves_is_told(self) -> None:
        item = ledger_item("postgresql://u:hush@127.0.0.1:1/d")
        assert (item.state, item.says) == ("fail", "cannot be reached")

    def test_of_an_unknown_name_is_told(self, pg_server: PgServer) -> None:
        assert ledger_item(pg_server.url("nowhere")).says == "has no such database or user"

    def test_that_takes_no_writes_is_told_and_nothing_is_written(self, pg_server: PgServer) -> None:
        with pg_server.ledger() as url:
            name = url.rpartition("/")[2]
            engine = open_engine(url)
            assert ledger_item(url).state == "ok"
            with engine.connect() as connection:
                assert connection.execute(text("SELECT count(*) FROM sendq_event")).scalar() == 0
            pg_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            item = ledger_item(url)
            assert (item.state, item.says.split(":")[0]) == ("fail", "the ledger takes no writes")
            assert "primary" in item.remedy
            pg_server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            pg_server.execute(f"ALTER DATABASE {name} SET statement_timeout = 300")
            with engine.begin() as connection:
                connection.execute(text("LOCK TABLE sendq_event"))
                assert "statement_timeout" in ledger_item(url).says
            engine.dispose()

    def test_in_which_the_user_may_not_write_is_told(self, pg_server: PgServer) -> None:
        with pg_server.ledger() as url:
            role = f"reader_{url.rpartition('/')[2]}"
            engine = open_engine(url)
            with engine.begin() as connection:
                connection.execute(text(f"CREATE ROLE {role} LOGIN"))
                connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
            item = ledger_item(url.replace("postgres@", f"{role}@"))
            assert (item.state, "sendq_job" in item.says) == ("fail", True)
            assert "grant the user" in item.remedy
            with engine.begin() as connection:
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))
            engine.dispose()

    def test_too_old_is_told(self, pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "LEAST_POSTGRES", (99,))
        item = ledger_item(pg_url)
        assert item.state == "fail"
        assert "too old" in item.says


@contextmanager
def user(redis_url: str, *rights: str) -> Iterator[str]:
    """The address of the broker for a user with these rights alone."""
    with redis_client(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pass", *rights)
        try:
            yield redis_url.replace("redis+socket://", "redis+socket://limited:pass@")
        finally:
            client.execute_command("ACL", "DELUSER", "limited")


class TestTheBroker:
    def test_that_deletes_queues_is_refused(self, redis_url: str) -> None:
        with redis_client(redis_url) as client:
            try:
                client.config_set("maxmemory-policy", "allkeys-lru")
                item = find(redis_items(redis_url), "redis eviction")
                assert (item.state, item.says.split()[1]) == ("fail", "allkeys-lru")
                client.config_set("maxmemory-policy", "volatile-ttl")
                assert find(redis_items(redis_url), "redis eviction").state == "warn"
            finally:
                client.config_set("maxmemory-policy", "noeviction")

    def test_that_keeps_no_file_is_told(self, redis_url: str) -> None:
        with redis_client(redis_url) as client:
            try:
                client.config_set("appendonly", "no")
                assert find(redis_items(redis_url), "redis persistence").says.startswith("no persistence: ")
                client.config_set("save", "900 1")
                item = find(redis_items(redis_url), "redis persistence")
                assert (item.state, item.says.split()[0]) == ("warn", "snapshots")
            finally:
                client.config_set("save", "")
                client.config_set("appendonly", "yes")

    def test_that_forbids_questions_is_unknown_and_never_ok(self, redis_url: str) -> None:
        with redis_client(redis_url) as client:
            client.execute_command(
                "ACL", "SETUSER", "shy", "on", ">hush", "~*", "&*", "+@all", "-config", "-info", "-time"
            )
        shy = redis_url.replace("redis+socket://", "redis+socket://shy:hush@")
        assert {item.name: item.state for item in redis_items(shy)} == dict.fromkeys(
            ["redis", "redis eviction", "redis persistence", "redis clock"], "unknown"
        ) | {"redis rights": "fail"}  # the scripts of kombu ask for the time

    def test_that_forbids_config_alone_still_tells_its_policy(self, redis_url: str) -> None:
        with redis_client(redis_url) as client:
            client.execute_command("ACL", "SETUSER", "managed", "on", ">hush", "~*", "+@all", "-config")
            managed = redis_url.replace("redis+socket://", "redis+socket://managed:hush@")
            try:
                client.config_set("appendonly", "no")
                items = redis_items(managed)
            finally:
                client.config_set("appendonly", "yes")
        assert find(items, "redis eviction").state == "ok"
        assert find(items, "redis persistence").state == "unknown"

    def test_with_a_user_that_a_worker_cannot_work_with_names_what_it_lacks(self, redis_url: str) -> None:
        with user(
            redis_url, "+@all", "-@admin", "-@dangerous", "-client", "+info", "~sendq*", "~_kombu*", "&*"
        ) as limited:
            item = find(redis_items(limited), "redis rights")
        lacking = "DEL, LLEN, LPUSH with ~*.sendq.pidbox*; CLIENT with +client|setname +script +time"
        assert (item.state, item.says) == ("fail", f"the user may not run {lacking}")
        assert RIGHTS in item.remedy

    def test_with_a_user_that_has_just_the_documented_rights_is_fine(self, redis_url: str) -> None:
        with user(redis_url, *RIGHTS.split()) as limited:
            items = redis_items(limited)
        assert find(items, "redis rights").state == "ok"
        assert find(items, "redis").state == "ok"
        assert RIGHTS in (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("lacks", ["-brpop", "-multi", "-script", "-publish", "-evalsha"])
    def test_with_a_user_without_a_command_names_it(self, redis_url: str, lacks: str) -> None:
        with user(redis_url, *RIGHTS.split(), lacks) as limited:
            item = find(redis_items(limited), "redis rights")
        assert item.state == "fail"
        assert lacks.removeprefix("-").upper() in item.says

    def test_with_another_password_is_told_without_it(self, redis_url: str) -> None:
        (item,) = redis_items(redis_url.replace("redis+socket://", "redis+socket://nobody:hush@"))
        assert (item.state, item.says) == ("fail", "rejects the password")
        assert "hush" not in str(item)

    def test_that_nobody_serves_is_told(self) -> None:
        (item,) = redis_items("redis://:hush@127.0.0.1:1/0")
        assert (item.state, item.says) == ("fail", "cannot be reached")

    def test_that_is_a_replica_is_refused(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as server, redis_client(server.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            item = find(redis_items(server.url), "redis")
            assert (item.state, item.remedy) == ("fail", "use the address of its primary")

    def test_that_is_nearly_full_is_told(self, tmp_path: Path) -> None:
        with EmbeddedRedis(tmp_path) as server, redis_client(server.url) as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]))
            item = find(redis_items(server.url), "redis")
            assert item.state == "warn"
            assert "full" in item.says

    @pytest.mark.parametrize(
        ("info", "says"),
        [
            ({"redis_version": "6.0.16", "role": "master"}, "too old"),
            ({"redis_version": "7.2.0", "role": "master", "cluster_enabled": 1}, "runs as a cluster"),
        ],
    )
    def test_of_another_make_is_refused(self, info: dict[str, object], says: str) -> None:
        item = check_redis._server_item(info)
        assert item.state == "fail"
        assert says in item.says

    def test_that_is_embedded_names_its_program_or_says_where_to_get_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (item,) = check_redis.redis_items(Settings())
        assert item.state == "ok"

        def none() -> Path:
            raise EmbeddedError(NO_SERVER)

        monkeypatch.setattr(check_redis, "find_redis_server", none)
        (item,) = check_redis.redis_items(Settings())
        assert (item.state, item.says) == ("fail", "no redis-server found")
        assert item.remedy.startswith("install Redis or Valkey")


class TestAClock:
    @pytest.mark.parametrize(
        ("theirs", "state"),
        [(100.0, "ok"), (101.5, "ok"), (102.5, "warn"), (98.0, "warn"), (140.0, "fail"), (60.0, "fail")],
    )
    def test_is_judged_by_what_the_way_there_cannot_explain(self, theirs: float, state: str) -> None:
        assert clock_item("clock", theirs, before=100.0, after=101.0).state == state

    def test_says_who_is_ahead(self) -> None:
        assert clock_item("clock", 105.0, 100.0, 100.0).says == "is 5.0 s ahead of this machine's clock"
        assert clock_item("clock", 95.0, 100.0, 100.0).says == "is 5.0 s behind this machine's clock"


class TestACheckThatStumbles:
    def test_says_so_and_lets_the_others_speak(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(_: object) -> Iterator[CheckItem]:
            raise KeyError("hush")

        monkeypatch.setattr(checks, "ledger_items", broken)
        items = run_checks(settings)
        assert find(items, "ledger").says == "the check failed unexpectedly (KeyError)"
        assert find(items, "redis").state == "ok"
