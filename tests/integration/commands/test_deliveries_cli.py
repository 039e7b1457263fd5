"""``sendq deliveries``: who was told, who was not and why, and telling again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from sendq import clock
from sendq.ledger import deliveries
from sendq.ledger.db import schema
from sendq.ledger.deliveries import DeliveryAttempt
from sendq.ledger.outcomes import GIVE_UP_AFTER
from tests.support.ledger import Ledger
from worker.cli.main import main

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> Cli:
    """Run a command over the ledger of this test: its status, what it said on stdout and on stderr."""
    for name in list(os.environ):
        if name.startswith(("SENDQ_", "NYLAS_", "REDIS_URL", "SENTRY_DSN")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", ledger_url)

    def one(*arguments: str) -> tuple[int, str, str]:
        before = signal.getsignal(signal.SIGINT)
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else -1
        finally:
            signal.signal(signal.SIGINT, before)
        said = capsys.readouterr()
        return status, said.out, said.err

    return one


@pytest.fixture
def told(ledger: Ledger) -> list[UUID]:
    """One that was delivered, one that waits for its receiver, one that was given up."""
    ledger.clock.at = clock.now() - GIVE_UP_AFTER
    for target in ("webhook:good", "webhook:down", "billing.tasks.mail_outcome"):
        ledger.queue.cancel(str(ledger.send(on_outcome=target, key=f"key-{target}")))
        ledger.clock.advance(0.001)
    by_receiver = {row.receiver: row.id for row in ledger.rows(schema.delivery)}
    good, down, task = (by_receiver[name] for name in ("webhook:good", "webhook:down", "celery"))
    with ledger.writing() as connection:
        now = clock.now()
        deliveries.record(connection, "webhook:good", [DeliveryAttempt(good)], now=now)
        deliveries.record(connection, "celery", [DeliveryAttempt(task, "status 500")], now=now)
        connection.execute(schema.delivery.update().where(schema.delivery.c.id == down).values(until=now + 1_000_000))
        deliveries.record(
            connection, "webhook:down", [DeliveryAttempt(down, "no connection", unreachable=True)], now=now
        )
    return [good, down, task]


def as_json(result: tuple[int, str, str]) -> Any:
    status, out, err = result
    assert (status, err) == (0, "")
    return json.loads(out)


class TestDeliveries:
    def test_of_which_none_fits_are_said_to_be_none(self, cli: Cli) -> None:
        assert cli("deliveries", "--state", "waiting") == (0, "no deliveries match\n", "")

    def test_shows_who_was_told_and_who_was_not(self, cli: Cli, told: list[UUID]) -> None:
        status, out, _ = cli("deliveries")
        assert status == 0
        lines = [next(line for line in out.splitlines() if str(one) in line) for one in told]
        for line, words in zip(lines, ("delivered", "no connection", "given up"), strict=True):
            assert words in line

    def test_shows_the_same_to_programs(self, cli: Cli, told: list[UUID]) -> None:
        good, down, task = told
        found = {one["id"]: one for one in as_json(cli("deliveries", "--json"))["items"]}
        assert {one: found[str(one)]["state"] for one in told} == {good: "delivered", down: "waiting", task: "given_up"}
        assert found[str(good)]["next_at"] is None
        assert found[str(down)]["next_at"] > found[str(down)]["tried_at"]
        assert found[str(task)]["facts"]["key"] == "key-billing.tasks.mail_outcome"

    @pytest.mark.parametrize(
        ("filters", "which"),
        [
            (["--state", "delivered"], [0]),
            (["--state", "waiting", "--state", "given_up"], [2, 1]),
            (["--receiver", "celery"], [2]),
            (["--kind", "cancelled", "--limit", "1"], [2]),
            (["--kind", "sent"], []),
            (["--grant", "g1"], [2, 1, 0]),
            (["--grant", "g2"], []),
        ],
    )
    def test_filters(self, cli: Cli, told: list[UUID], filters: list[str], which: list[int]) -> None:
        assert [one["id"] for one in as_json(cli("deliveries", *filters, "--json"))["items"]] == [
            str(told[n]) for n in which
        ]

    def test_finds_those_of_a_job(self, cli: Cli, told: list[UUID], ledger: Ledger) -> None:
        job = next(row.subject for row in ledger.rows(schema.delivery) if row.id == told[1])
        assert [one["id"] for one in as_json(cli("deliveries", "--job", str(job), "--json"))["items"]] == [str(told[1])]

    def test_are_in_the_status_while_somebody_is_not_told(self, cli: Cli, told: list[UUID]) -> None:
        seen = as_json(cli("status", "--json"))["deliveries"]
        assert (seen["waiting"], seen["given_up"], seen["failing"]) == (1, 1, ["webhook:down"])
        out = cli("status")[1]
        assert "outcomes to deliver: 1, the oldest for 259," in out  # 72 hours, in seconds
        assert "failing receivers: webhook:down; see: sendq deliveries --state waiting" in out
        assert "outcomes not delivered, given up: 1; see: sendq deliveries --state given_up" in out

    def test_refuses_what_is_no_id(self, cli: Cli) -> None:
        status, _, err = cli("deliveries", "--job", "that one")
        assert (status, err.count("\n")) == (1, 1)


class TestRetrying:
    def states(self, ledger: Ledger, told: list[UUID]) -> list[str]:
        rows = {row.id: row.state for row in ledger.rows(schema.delivery)}
        return [rows[one] for one in told]

    def test_counts_first(self, cli: Cli, told: list[UUID], ledger: Ledger) -> None:
        assert as_json(cli("deliveries", "retry", "--given-up", "--dry-run", "--json")) == {
            "dry_run": True,
            "retried": 1,
        }
        assert self.states(ledger, told) == ["delivered", "waiting", "given_up"]

    def test_tells_what_was_given_up_and_keeps_who_did_that(self, cli: Cli, told: list[UUID], ledger: Ledger) -> None:
        assert cli("deliveries", "retry", "--given-up", "--reason", "mended", "--by", "anna")[:2] == (
            0, "1 delivery retried\n",
        )  # fmt: skip
        assert self.states(ledger, told) == ["delivered", "waiting", "waiting"]
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.by, event.reason) == ("deliveries_retried", "anna", "mended")

    def test_asks_a_receiver_at_once(self, cli: Cli, told: list[UUID], ledger: Ledger) -> None:
        with ledger.writing() as connection:
            assert deliveries.receivers(connection, now=clock.now()) == []
        assert as_json(cli("deliveries", "retry", "--receiver", "webhook:down", "--json"))["retried"] == 1
        with ledger.writing() as connection:
            assert [one.name for one in deliveries.receivers(connection, now=clock.now())] == ["webhook:down"]

    def test_names_what_it_did_not_retry(self, cli: Cli, told: list[UUID]) -> None:
        status, out, err = cli("deliveries", "retry", str(told[0]), str(told[2]))
        assert (status, out) == (1, "1 delivery retried\n")
        assert "were already delivered, or are not in this ledger" in err

    @pytest.mark.parametrize("arguments", [[], ["--given-up", "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"]])
    def test_wants_ids_or_filters(self, cli: Cli, arguments: list[str]) -> None:
        status, _, err = cli("deliveries", "retry", *arguments)
        assert status == 2
        assert "give at least one DELIVERY, or filter" in err
