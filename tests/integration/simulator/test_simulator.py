"""The simulator as a program, as a fixture, and as the official client sees it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nylas import Client as OfficialClient
from nylas.models.errors import NylasApiError

from sendq.simulator import Simulator
from sendq.simulator.checks import MODIFY, SEND
from tests.integration.simulator.asking import (
    FACTS,
    Client,
)
from tests.support.waiting import LIMIT_S


class TestTheSimulator:
    def test_waits_for_the_thing(self, sim: Simulator, client: Client) -> None:
        client.send()
        assert sim.wait_for(lambda s: len(s.mailbox)) == 1

    def test_stops_waiting_at_the_limit(self, sim: Simulator) -> None:
        with pytest.raises(TimeoutError, match="0 accepted"):
            sim.wait_for(lambda s: s.mailbox, timeout=0.01)

    def test_forgets_everything_on_reset(self, sim: Simulator, client: Client) -> None:
        sim.will("throttle", times=None)
        client.send(key="k")
        sim.reset()
        assert (sim.requests, sim.mailbox, client.list().data) == ([], [], [])
        assert "idempotent-response" not in client.send(key="k").headers

    def test_logs_no_bodies_when_told_so(self) -> None:
        with Simulator(log_bodies=False) as sim:
            Client(sim.url).send()
            assert sim.requests[0].body == b""

    def test_comes_back_at_the_same_address_with_its_memory(self, sim: Simulator, client: Client) -> None:
        client.send(key="k")
        sim.stop()
        with pytest.raises(ConnectionRefusedError):
            client.send(key="k")
        sim.start()
        assert client.send(key="k").headers["idempotent-response"] == "true"

    @given(
        body=st.binary(max_size=200),
        content_type=st.sampled_from(["application/json", "multipart/form-data; boundary=b"]),
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_answers_whatever_the_body_holds(self, client: Client, body: bytes, content_type: str) -> None:
        part = b'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\n'
        for raw in (body, part + body, part + b'{"attachments": 1}\r\n--b\r\n\r\n--b--'):
            reply = client.call("POST", "/v3/grants/g/messages/send", raw, content_type=content_type)
            assert reply.status == 400

    @pytest.mark.parametrize(
        "content_type", ["multipart/form-data;", "multipart/form-data; boundary=", "multipart/form-data; x"]
    )
    def test_answers_a_multipart_without_a_boundary(self, client: Client, content_type: str) -> None:
        reply = client.call("POST", "/v3/grants/g/messages/send", b"x", content_type=content_type)
        assert reply.status == 400

    def test_says_so_when_its_address_is_taken(self, sim: Simulator) -> None:
        with pytest.raises(OSError, match="in use"):
            Simulator(port=int(sim.url.rpartition(":")[2])).start()

    def test_knows_the_fields_that_the_document_knows(self) -> None:
        assert SEND.keys() == FACTS["send"]["request"]["properties"].keys()
        assert MODIFY.keys() == FACTS["modify"]["request"]["properties"].keys()

    def test_without_aiohttp_names_the_extra(self) -> None:
        code = "import sys; sys.modules['aiohttp'] = None; import sendq.simulator"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.stderr.strip().endswith("the simulator needs aiohttp: pip install 'sendq[simulator]'")


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], Client]]:
    with subprocess.Popen([sys.executable, "-m", "sendq.simulator"], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield started, Client(started.stdout.readline().strip())
        finally:
            started.kill()


class TestAnotherProcess:
    def test_scripts_it_and_looks_inside(self, process: tuple[subprocess.Popen[str], Client]) -> None:
        _, client = process
        fault = {"status": 429, "type": "rate_limit_error", "headers": {"Retry-After": "2"}}
        assert client.call("POST", "/_simulator/faults", {"fault": fault, "operation": "send"}).status == 200
        assert client.call("POST", "/_simulator/grants", {"id": "g", "provider": "imap"}).json["provider"] == "imap"
        assert [client.send().status for _ in range(2)] == [429, 200]
        state = client.call("GET", "/_simulator/").json
        assert (state["requests"], state["accepted"], state["by_status"]) == (2, 1, {"429": 1, "200": 1})
        assert [one["status"] for one in client.call("GET", "/_simulator/requests?since=1").json] == [200]
        assert client.call("GET", "/_simulator/mailbox").json[0]["payload"]["subject"] == "Hello"
        assert client.call("POST", "/_simulator/reset").json["requests"] == 0

    @pytest.mark.parametrize(
        "fault",
        [
            "throttle",
            {"ending": "drop", "accepted": True},
            {"ending": "hang", "kept": "stuck"},
            {"ending": "pass", "delay": 0.1},
            {"status": 502, "body": "<html>", "content_type": "text/html"},
        ],
    )
    def test_may_give_any_fault(self, client: Client, fault: Any) -> None:
        reply = client.call("POST", "/_simulator/faults", {"fault": fault, "probability": 0.5})
        assert (reply.status, reply.json) == (200, {"faults_waiting": 1})

    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"fault": "x"},
            {"fault": {}},
            {"fault": {"ending": "x"}},
            {"fault": "bad", "x": 1},
            {"fault": "bad", "times": "x"},
            {"fault": "bad", "probability": "x"},
            {"fault": {"status": 400, "delay": "x"}},
            {"fault": {"status": 400, "headers": {"Retry-After": 1}}},
            {"fault": {"status": 400, "headers": 1}},
            {"fault": {"status": 99}},
        ],
    )
    def test_is_told_what_is_no_fault(self, client: Client, asked: Any) -> None:
        assert client.call("POST", "/_simulator/faults", asked).status == 400

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_ends_it_by_signal(self, process: tuple[subprocess.Popen[str], Client], how: signal.Signals) -> None:
        started, client = process
        with client.connection() as wire:
            client.ask(wire, "POST", "/v3/grants/g/messages/send", {"to": [{"email": "hang@example.com"}]})
            started.send_signal(how)
            assert started.wait(LIMIT_S) == 0


class TestTheFixture:
    def test_gives_each_test_a_simulator_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["sendq.simulator.fixture"]\n')
        (tmp_path / "test_mine.py").write_text(
            textwrap.dedent("""
                import pytest
                from urllib.request import urlopen, Request

                def grants(nylas):
                    ask = Request(nylas.url + "/v3/grants/g", headers={"Authorization": "Bearer mine"})
                    with urlopen(ask) as answer:
                        return answer.status

                @pytest.mark.nylas_simulator(api_key="mine")
                @pytest.mark.parametrize("again", [1, 2])
                def test_marked(nylas_simulator, again):
                    assert grants(nylas_simulator) == 200
                    assert len(nylas_simulator.requests) == 1

                def test_unmarked(nylas_simulator):
                    assert nylas_simulator.behaviour.api_key == "test-key"
            """)
        )
        command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-W", "error", "-p", "no:cacheprovider"]
        ended = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "3 passed" in ended.stdout, ended.stdout


class TestTheOfficialClient:
    @pytest.fixture
    def nylas(self, sim: Simulator) -> OfficialClient:
        return OfficialClient("test-key", sim.url)

    def test_sends_and_finds_by_metadata(self, sim: Simulator, nylas: OfficialClient) -> None:
        message = {"to": [{"email": "leyah@example.com"}], "subject": "Hello", "body": "Hi", "metadata": {"key1": "j"}}
        key = {"headers": {"Idempotency-Key": "k"}}
        sent = nylas.messages.send("g", message, overrides=key).data
        assert sent.id == sim.mailbox[0].id
        assert nylas.messages.send("g", message, overrides=key).headers["idempotent-response"] == "true"
        found = nylas.messages.list("g", {"metadata_pair": {"key1": "j"}, "limit": 5})
        assert [one.id for one in found.data] == [sent.id]

    def test_sends_large_files_as_multipart(self, sim: Simulator, nylas: OfficialClient) -> None:
        size = 3 * 1024 * 1024
        file = {"filename": "a.bin", "content_type": "application/octet-stream", "content": b"x" * size, "size": size}
        nylas.messages.send("g", {"to": [{"email": "leyah@example.com"}], "attachments": [file]})
        assert sim.requests[0].headers["content-type"].startswith("multipart/form-data")
        assert len(sim.mailbox) == 1

    def test_finds_changes_and_deletes(self, sim: Simulator, nylas: OfficialClient) -> None:
        message = "<a+b/c@example.com>"
        sim.message("g", message)
        assert nylas.messages.find("g", message).data.unread is True
        assert nylas.messages.update("g", message, {"unread": False, "starred": True}).data.starred is True
        assert nylas.messages.destroy("g", message).request_id
        assert nylas.messages.find("g", message).data.folders == ["TRASH"]

    def test_finds_grants(self, sim: Simulator, nylas: OfficialClient) -> None:
        sim.grant("g", provider="microsoft", status="invalid")
        assert nylas.grants.find("g").data.grant_status == "invalid"
        assert [grant.provider for grant in nylas.grants.list().data] == ["microsoft"]

    def test_raises_its_own_error_on_a_wrong_key(self, sim: Simulator) -> None:
        with pytest.raises(NylasApiError) as caught:
            OfficialClient("wrong", sim.url).grants.find("g")
        assert (caught.value.status_code, caught.value.type) == (401, "token.unauthorized_access")
        assert caught.value.request_id == caught.value.headers["x-request-id"]
