"""A broker that real sentinels watch: what opens its own connections follows it from server to server."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from settings import Settings
from tests.support.sentinels import NAME, Watched, watched
from tests.support.waiting import eventually
from worker.doctor.check_redis import redis_items
from worker.leading.renewal_witness import RenewalWitness
from worker.redis.embedded import redis_client

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("sentinels")) as found:
        yield found


def failures(url: str) -> dict[str, str]:
    """What `sendq check` finds wrong, by name."""
    return {one.name: one.says for one in redis_items(Settings.load({"REDIS_URL": url})) if one.state == "fail"}


def test_check_finds_nothing_wrong(servers: Watched) -> None:
    assert failures(servers.url) == {}


def test_check_tells_a_wrong_password_from_a_name_that_nothing_has(servers: Watched) -> None:
    assert failures(servers.url.replace("hush", "other")) == {"redis": "rejects the password"}
    assert failures(servers.url.replace(NAME, "nobody")) == {"redis": "cannot be reached"}


def test_the_witness_and_other_clients_follow_a_failover(servers: Watched) -> None:
    url = Settings.load({"REDIS_URL": servers.url}).broker_url.get_secret_value()
    witness, line = RenewalWitness(url), uuid4()
    witness.remember(line, 7)
    with redis_client(url) as client:
        first = client.info("server")["tcp_port"]
        assert client.connection_pool.connection_kwargs["db"] == 1
        client.wait(1, 5000)  # until the replica has it
        old = eventually(servers.primary, "a primary")
        assert old == first
        servers.switch()
        eventually(lambda: servers.primary() not in (None, old), "another primary")

        def followed() -> bool:
            try:
                client.set("sendq:test", "1")
            except redis.ConnectionError:  # of the old connection, or a server that is just changing its role
                return False
            return bool(client.info("server")["tcp_port"] != first)

        eventually(followed, "a client that writes to the new primary")
    eventually(lambda: witness.renewals_of(line) == 7, "a witness that remembers")
    witness.close()
