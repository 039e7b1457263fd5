"""The proxy that other tests break connections with: it must do what it says, or they prove nothing."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socket import create_connection, socket

import psycopg
import pytest

from tests.support.proxy import Mode, Proxy
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S, eventually


class Echo(socketserver.StreamRequestHandler):
    """Says every line again, and remembers it."""

    heard: list[bytes]

    def handle(self) -> None:
        with suppress(OSError):  # a connection that was reset
            for line in self.rfile:
                self.heard.append(line)
                self.wfile.write(line)


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def proxy(heard: list[bytes]) -> Iterator[Proxy]:
    handler = type("Handler", (Echo,), {"heard": heard})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with Proxy("127.0.0.1", server.server_address[1]) as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket]:
    with create_connection(("127.0.0.1", proxy.port), timeout=LIMIT_S) as client:
        yield client


def says(client: socket, line: bytes) -> bytes:
    client.sendall(line)
    return client.recv(100)


def works(proxy: Proxy) -> bool:
    try:
        with create_connection(("127.0.0.1", proxy.port), timeout=LIMIT_S) as client:
            return says(client, b"one\n") == b"one\n"
    except OSError:
        return False


class TestForward:
    def test_everything_passes(self, client: socket) -> None:
        assert says(client, b"one\n") == b"one\n"


class TestDelay:
    def test_everything_passes_later(self, proxy: Proxy, client: socket) -> None:
        proxy.delay(0.1)
        began = time.monotonic()
        assert says(client, b"one\n") == b"one\n"
        assert time.monotonic() - began >= 0.2


class TestFreeze:
    def test_nothing_passes_and_all_of_it_does_afterwards(
        self, proxy: Proxy, client: socket, heard: list[bytes]
    ) -> None:
        assert says(client, b"one\n") == b"one\n"
        proxy.freeze()
        client.sendall(b"two\n")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert heard == [b"one\n"]
        proxy.forward()
        client.settimeout(LIMIT_S)
        assert client.recv(100) == b"two\n"

    def test_a_new_connection_is_taken_and_not_served(self, proxy: Proxy) -> None:
        proxy.freeze()
        with create_connection(("127.0.0.1", proxy.port), timeout=0.2) as client:
            with pytest.raises(TimeoutError):
                says(client, b"one\n")
            proxy.forward()
            client.settimeout(LIMIT_S)
            assert client.recv(100) == b"one\n"


class TestSwallow:
    def test_the_server_hears_and_nobody_hears_it(self, proxy: Proxy, client: socket, heard: list[bytes]) -> None:
        proxy.swallow()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            says(client, b"one\n")
        assert heard == [b"one\n"]

    def test_a_connection_with_a_hole_in_it_ends_with_the_mode(
        self, proxy: Proxy, client: socket, heard: list[bytes]
    ) -> None:
        proxy.swallow()
        client.sendall(b"one\n")
        eventually(lambda: heard, "the request")
        eventually(lambda: any(one.swallowed for one in proxy._connections), "the loss")
        proxy.forward()
        with pytest.raises(ConnectionResetError):
            client.recv(100)


class TestCut:
    def test_connections_are_reset_and_so_are_new_ones(self, proxy: Proxy, client: socket) -> None:
        assert says(client, b"one\n") == b"one\n"
        proxy.cut()
        assert proxy.mode is Mode.CUT
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert not works(proxy)

    def test_a_single_break_lets_new_ones_through(self, proxy: Proxy, client: socket) -> None:
        assert says(client, b"one\n") == b"one\n"
        assert proxy.break_off() == 1
        with create_connection(("127.0.0.1", proxy.port), timeout=LIMIT_S) as another:
            assert says(another, b"two\n") == b"two\n"


class TestAnAnswerThatIsLost:
    def test_a_commit_happens_and_its_connection_breaks(self, pg_server: PgServer) -> None:
        with pg_server.database() as name, Proxy(pg_server.host, pg_server.port) as proxy:
            url = proxy.in_place_of(f"postgresql://postgres@{pg_server.host}:{pg_server.port}/{name}")
            with psycopg.connect(url) as db:
                db.execute("CREATE TABLE mark (id int)")
                db.execute("CREATE TABLE other (id int)")
            loss = proxy.lose_answer_to(b"COMMIT", after=b"INTO mark")
            with psycopg.connect(url) as db:
                db.execute("INSERT INTO other VALUES (1)")
            with pytest.raises(psycopg.OperationalError), psycopg.connect(url) as db:
                db.execute("INSERT INTO mark VALUES (1)")
            assert loss.happened.is_set()
            with psycopg.connect(url) as db:  # the next one is handed on
                db.execute("INSERT INTO mark VALUES (2)")
                assert db.execute("SELECT count(*) FROM mark").fetchone() == (2,)


class TestAUnixSocket:
    def test_can_stand_behind_it(self, pg_server: PgServer) -> None:
        path = Path(pg_server.socket_dir) / f".s.PGSQL.{pg_server.port}"
        with Proxy(unix=path) as proxy:
            url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
            with psycopg.connect(url) as db:
                assert db.execute("SELECT 1").fetchone() == (1,)
