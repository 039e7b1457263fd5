"""Faults that a test asks for, and the gate in front of everything."""

from __future__ import annotations

import pytest

from sendq.simulator import Fault, Request, Simulator
from tests.integration.simulator.asking import (
    Client,
)


class TestAScriptedFault:
    def test_happens_as_often_as_told_then_no_more(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.status(429, type="rate_limit_error", headers={"Retry-After": "3"}), times=2)
        replies = [client.send() for _ in range(3)]
        assert [reply.status for reply in replies] == [429, 429, 200]
        assert replies[0].headers["retry-after"] == "3"

    def test_happens_only_to_its_grant_and_operation(self, sim: Simulator, client: Client) -> None:
        sim.will("throttle", grant="a", operation="modify", headers={"Retry-After": "9"})
        assert client.send(grant="a").status == 200
        assert client.put("m", {"unread": False}, grant="b").status == 200
        reply = client.put("m", {"unread": False}, grant="a")
        assert (reply.status, reply.headers["retry-after"]) == (429, "9")

    def test_can_follow_a_change_that_was_made(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.status(504, type="provider_error", accepted=True), operation="modify")
        assert client.put("m", {"starred": True}).status == 504
        assert client.get("m").data["starred"] is True

    def test_can_answer_anything(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.body(200, {"message": "Sending failed", "type": "api_error"}))
        assert client.send(check=False).json == {"message": "Sending failed", "type": "api_error"}

    def test_that_hangs_ends_with_the_simulator(self) -> None:
        with Simulator() as sim:
            client = Client(sim.url)
            sim.will(Fault.hang(), grant="g")
            with client.connection() as wire:
                client.ask(wire, "GET", "/v3/grants/g")
                sim.wait_for(lambda s: s.requests)
                sim.stop()
                with pytest.raises(ConnectionError):
                    wire.getresponse()

    def test_that_is_slow_still_succeeds(self, sim: Simulator, client: Client) -> None:
        sim.will(Fault.slow(0.05))
        assert client.send().status == 200
        (request,) = sim.requests
        assert request.done_at is not None
        assert request.done_at - request.at >= 0.05

    def test_of_a_name_nobody_knows_is_an_error(self, sim: Simulator) -> None:
        with pytest.raises(ValueError, match="no fault is called 'thortle'"):
            sim.will("thortle")

    def test_by_chance_happens_the_same_for_the_same_seed(self) -> None:
        def faults(seed: int) -> list[int]:
            with Simulator(seed=seed) as sim:
                sim.sometimes(0.5, "tempfail")
                return [client.send().status for client in [Client(sim.url)] for _ in range(30)]

        first = faults(1)
        assert first == faults(1)
        assert first != faults(2)
        assert set(first) == {200, 503}


class TestAGate:
    def test_decides_before_any_script_and_sees_each_request(self, sim: Simulator, client: Client) -> None:
        admitted: list[str | None] = []

        def three_then_no_more(request: Request) -> Fault | None:
            if len(admitted) == 3:
                return Fault.status(429, headers={"Retry-After": "5"})
            admitted.append(request.grant)
            return None

        sim.behaviour.gate = three_then_no_more
        sim.will(Fault.status(503), times=1)
        replies = [client.send() for _ in range(5)]
        assert [reply.status for reply in replies] == [503, 200, 200, 429, 429]
        assert admitted == ["g"] * 3
        assert len(sim.mailbox) == 2
        sim.behaviour.gate = None
        assert client.send().status == 200
