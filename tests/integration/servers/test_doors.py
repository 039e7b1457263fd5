"""Doors: TLS to Redis and PostgreSQL by URL, and a broker's message that is not JSON."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from benchmarks.certificate import write_certificate
from sendq import LedgerUnavailable, SendQueue, State
from tests.integration.commands.test_cli import run_process
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.tls import tls_proxy
from tests.support.waiting import eventually
from worker.redis.embedded import redis_client

UNTRUSTED = "has no certificate that this machine trusts"  # what `sendq check` says, of either server


@dataclass
class Doors:
    """A system whose servers are reached by TLS as well, and the certificate that they show."""

    system: System
    certificate: Path
    redis_port: int
    pg_port: int

    def redis_url(self, *, host: str = "127.0.0.1", authority: Path | None = None) -> str:
        return f"rediss://{host}:{self.redis_port}/0" + (f"?ssl_ca_certs={authority}" if authority else "")

    def ledger_url(self, *, host: str = "127.0.0.1", authority: Path | None = None) -> str:
        url = make_url(self.system.ledger_url).set(host=host, port=self.pg_port)
        query = {"sslmode": "verify-full", "sslrootcert": str(authority or "system")}
        return url.update_query_dict(query).render_as_string(hide_password=False)


@pytest.fixture
def doors(pg_server: PgServer, tmp_path: Path) -> Iterator[Doors]:
    pair = write_certificate(tmp_path)
    with (
        pg_server.database() as name,
        running(pg_server.url(name), tmp_path) as system,
        tls_proxy(str(system.redis.socket_path), pair) as redis_port,
        tls_proxy(f"{pg_server.host}:{pg_server.port}", pair, asks_first=True) as pg_port,
    ):
        yield Doors(system, pair[0], redis_port, pg_port)


class TestTls:
    def test_carries_a_job_from_end_to_end(self, doors: Doors) -> None:
        system, trusted = doors.system, doors.certificate
        ledger_url = doors.ledger_url(authority=trusted)
        system.start_worker(REDIS_URL=doors.redis_url(authority=trusted), DATABASE_URL=ledger_url)
        queue = SendQueue(ledger_url)
        job = queue.send("g1", mail())
        eventually(lambda: queue.job(job.id).state is State.SENT, "the job")
        queue.close()

    @pytest.mark.parametrize("wrong", ["authority", "name"])
    def test_of_a_server_that_cannot_show_who_it_is_is_refused(self, doors: Doors, tmp_path: Path, wrong: str) -> None:
        (tmp_path / "other").mkdir()
        stranger, _ = write_certificate(tmp_path / "other")
        given: dict[str, Any] = {"authority": stranger}
        if wrong == "name":
            given = {"authority": doors.certificate, "host": "localhost"}
        with pytest.raises(LedgerUnavailable):
            SendQueue(doors.ledger_url(**given)).send("g1", mail())
        environ = {"REDIS_URL": doors.redis_url(**given), "DATABASE_URL": doors.ledger_url(**given)}
        status, out, _ = run_process("check", "--json", **environ)
        assert status == 2
        assert out.count(UNTRUSTED) == 2

    def test_trusts_nobody_by_default(self, doors: Doors) -> None:
        status, out, _ = run_process("check", "--json", REDIS_URL=doors.redis_url(), DATABASE_URL=doors.ledger_url())
        assert status == 2
        assert out.count(UNTRUSTED) == 2


class Run:
    """What a pickle message would do if it were opened: leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class TestAPickleInTheBroker:
    def test_is_refused_without_being_opened(self, pg_server: PgServer, tmp_path: Path) -> None:
        with pg_server.ledger() as url, running(url, tmp_path) as system:
            worker = system.start_worker()
            path = tmp_path / "opened"
            message = {
                "body": base64.b64encode(pickle.dumps(((Run(path),), {}, {}))).decode(),
                "content-type": "application/x-python-serialize",
                "content-encoding": "binary",
                "headers": {"lang": "py", "task": "sendq.bundle", "id": "1", "root_id": "1"},
                "properties": {
                    "body_encoding": "base64",
                    "delivery_tag": "1",
                    "delivery_info": {"exchange": "", "routing_key": "sendq"},
                },
            }
            with redis_client(system.redis.url) as client:
                client.lpush("sendq", json.dumps(message))
            eventually(lambda: "message_dropped" in worker.said(), "the refusal in the log")
            job = system.queue.send("g1", mail())
            eventually(lambda: system.state(job.id) is State.SENT, "a job after it")
            assert not path.exists()
            with redis_client(system.redis.url) as client:
                assert client.llen("sendq") == 0
