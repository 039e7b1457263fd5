"""Idempotency keys: the rules that are documented."""

from __future__ import annotations

from typing import Any

import pytest

from sendq.simulator import Fault, Simulator
from sendq.simulator.idempotency import LIFETIME
from tests.integration.simulator.asking import (
    Client,
    Clock,
)


class TestAnIdempotencyKey:
    def test_used_again_finds_the_first_answer(self, sim: Simulator, client: Client) -> None:
        first, second = client.send(key="k"), client.send(key="k")
        assert second.body == first.body
        assert (first.headers.get("idempotent-response"), second.headers["idempotent-response"]) == (None, "true")
        assert len(sim.mailbox) == 1
        assert [request.replayed for request in sim.requests] == [False, True]

    def test_belongs_to_its_grant(self, sim: Simulator, client: Client) -> None:
        client.send(grant="a", key="k")
        client.send(grant="b", key="k")
        assert len(sim.mailbox) == 2

    def test_is_free_one_hour_after_its_first_use(self, sim: Simulator, client: Client, clock: Clock) -> None:
        client.send(key="k")
        clock.now += LIFETIME - 1
        client.send(key="k")
        assert len(sim.mailbox) == 1
        clock.now += 1
        client.send(key="k")
        assert len(sim.mailbox) == 2

    def test_with_another_payload_is_refused(self, sim: Simulator, client: Client) -> None:
        client.send(key="k")
        reply = client.send(key="k", subject="Another")
        assert (reply.status, reply.error["type"]) == (409, "api.invalid_idempotent_request")
        assert client.send(key="k").status == 200

    def test_over_256_characters_is_refused(self, client: Client) -> None:
        assert client.send(key="k" * 256).status == 200
        reply = client.send(key="k" * 257)
        assert (reply.status, reply.error["type"]) == (400, "api.invalid_idempotency_key")

    def test_whose_first_request_still_runs_is_refused(self, sim: Simulator, client: Client) -> None:
        body = {"to": [{"email": "hang@example.com"}], "subject": "Hello", "body": "<p>Hi</p>"}
        with client.connection() as wire:
            client.ask(wire, "POST", "/v3/grants/g/messages/send", body, idempotency_key="k")
            sim.wait_for(lambda s: s.mailbox)
            reply = client.send("hang@example.com", key="k")
            assert (reply.status, reply.error["type"]) == (409, "api.concurrent_idempotent_request")
        sim.wait_for(lambda s: s.requests[0].done_at)
        reply = client.send("hang@example.com", key="k")
        assert (reply.status, reply.headers["idempotent-response"]) == (200, "true")
        assert len(sim.mailbox) == 1

    @pytest.mark.parametrize(
        ("name", "status"), [("tempfail", 503), ("throttle", 429), ("refused", 402), ("timeout", 504)]
    )
    def test_stores_errors_too(self, client: Client, name: str, status: int) -> None:
        first, second = (client.send(f"{name}@example.com", key="k") for _ in range(2))
        assert (first.status, second.status, second.body) == (status, status, first.body)
        assert second.headers["idempotent-response"] == "true"
        assert "retry-after" not in second.headers

    def test_stores_refusals_of_the_body(self, client: Client) -> None:
        assert client.send(key="k", subject=5).status == 400
        assert client.send(key="k", subject=5).headers["idempotent-response"] == "true"

    def test_does_not_store_throttles_when_told_so(self, sim: Simulator, client: Client) -> None:
        sim.behaviour.stores_throttles = False
        assert client.send("throttle@example.com", key="k").status == 429
        assert client.send("throttle@example.com", key="k").status == 200

    @pytest.mark.parametrize("gates_first", [False, True])
    def test_is_looked_up_before_the_gates_or_behind_them(
        self, sim: Simulator, client: Client, gates_first: bool
    ) -> None:
        """What the API does is not documented."""
        sim.behaviour.gates_first = gates_first
        refusal = Fault.status(429, type="rate_limit_error", message="slow down")
        client.send(key="k")
        sim.behaviour.gate = lambda _: refusal
        repeat = client.send(key="k")
        assert (repeat.status, repeat.headers.get("idempotent-response")) == (
            (429, None) if gates_first else (200, "true")
        )
        refused = client.send(key="new")
        sim.behaviour.gate = None
        assert refused.status == 429
        assert client.send(key="k").headers["idempotent-response"] == "true"
        assert client.send(key="new").status == (200 if gates_first else 429)

    @pytest.mark.parametrize("gates_first", [False, True])
    def test_of_an_invalid_grant_finds_its_answer_unless_the_grant_is_looked_at_first(
        self, sim: Simulator, client: Client, gates_first: bool
    ) -> None:
        sim.behaviour.gates_first = gates_first
        client.send(key="k")
        sim.grant("g", status="invalid")
        assert client.send(key="k").status == (401 if gates_first else 200)

    def test_is_not_spent_on_a_wrong_api_key(self, sim: Simulator, client: Client) -> None:
        body = {"to": [{"email": "a@example.com"}]}
        path = "/v3/grants/g/messages/send"
        assert client.call("POST", path, body, idempotency_key="k", authorization="Bearer wrong").status == 401
        assert client.call("POST", path, body, idempotency_key="k").status == 200

    @pytest.mark.parametrize(
        ("kept", "again"),
        [("answer", (504, True)), ("outcome", (200, True)), ("nothing", (200, False)), ("stuck", (409, False))],
    )
    def test_keeps_what_the_fault_says(
        self, sim: Simulator, client: Client, kept: Any, again: tuple[int, bool]
    ) -> None:
        sim.will(Fault.status(504, accepted=True, kept=kept))
        client.send(key="k")
        reply = client.send(key="k")
        assert (reply.status, "idempotent-response" in reply.headers) == again
