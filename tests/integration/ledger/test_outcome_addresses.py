"""Outcomes about mail name recipients by address only to receivers that are trusted with it, on both databases."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from pydantic import SecretStr

from sendq import Operators, SendQueue, Vault
from sendq.ledger import deliveries
from sendq.ledger.db import schema
from sendq.ledger.deliveries import DeliveryAttempt
from sendq.webhooks import receive
from settings import Settings
from tasks.policy.table import POLICY
from tests.integration.ledger.mail import TO, notification, sent
from tests.integration.ledger.test_webhooks import SECRET, signed
from tests.support.ledger import Ledger
from worker.notifying.notification import Notifications

SHOP = "webhook:shop"
ENDPOINT = {"shop": {"url": "https://shop.example.com/hook", "secret": "whsec_" + "A" * 44}}
KEYS = f"first:{'A' * 43}", f"second:{'B' * 42}A"


def bounced(ledger: Ledger, *, trusted: Collection[str] = (SHOP,), keys: str = "", on_outcome: str = SHOP) -> Any:
    """The delivery of the outcome of a mail that bounced for both recipients."""
    sent(ledger, on_outcome=on_outcome)
    queue = SendQueue(ledger.engine, vault=Vault.parse(keys), now=ledger.clock)
    body = notification(ledger, "message.bounced", "m1", bounced=TO)
    answer = receive(queue, secret=SECRET, raw_body=body, signature=signed(body), outcome_addresses=trusted)
    assert answer.status == 200
    (row,) = [row for row in ledger.rows(schema.delivery) if row.kind == "bounced"]
    return row


def told(row: Any, *, trusted: Collection[str] = (SHOP,), keys: str = "") -> list[str | None]:
    """The addresses in what a worker delivers."""
    settings = Settings(
        nylas_api_key=SecretStr("nyk_1"), outcome_endpoints=ENDPOINT, outcome_addresses=",".join(trusted),
        encryption_keys=SecretStr(keys) if keys else None,
    )  # fmt: skip
    body = Notifications(settings, POLICY).body(row, timestamp=1)
    assert [one["position"] for one in body["recipients"]] == [1, 2]
    return [one.get("address") for one in body["recipients"]]


def stored(ledger: Ledger) -> str:
    return str([ledger.rows(table) for table in schema.metadata.sorted_tables if table is not schema.payload])


class TestATrustedReceiver:
    @pytest.mark.parametrize("keys", ["", KEYS[0]])
    def test_is_told_the_addresses_until_they_are_delivered(self, ledger: Ledger, keys: str) -> None:
        row = bounced(ledger, keys=keys)
        assert told(row, keys=keys) == TO
        assert ("leyah" in stored(ledger)) is (keys == "")
        with ledger.writing() as connection:
            deliveries.record(connection, SHOP, [DeliveryAttempt(row.id, "status 500")], now=ledger.clock())
        assert {one.id: one.addresses for one in ledger.rows(schema.delivery)}[row.id] is not None
        with ledger.writing() as connection:
            deliveries.record(connection, SHOP, [DeliveryAttempt(row.id)], now=ledger.clock())
        assert {one.addresses for one in ledger.rows(schema.delivery)} == {None}

    def test_is_told_none_once_they_are_forgotten(self, ledger: Ledger) -> None:
        bounced(ledger)
        list(Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked to"))
        (row,) = [row for row in ledger.rows(schema.delivery) if row.kind == "bounced"]
        assert told(row) == [None, None]
        assert "leyah" not in stored(ledger)

    def test_is_told_them_after_a_change_of_the_key_and_none_without_it(self, ledger: Ledger) -> None:
        row = bounced(ledger, keys=KEYS[0])
        assert told(row, keys=KEYS[1]) == [None, None]
        both = f"{KEYS[1]},{KEYS[0]}"
        list(Operators(ledger.engine, now=ledger.clock).rekey(Vault.parse(both), by="anna", reason="a new key"))
        (row,) = [row for row in ledger.rows(schema.delivery) if row.kind == "bounced"]
        assert (told(row, keys=KEYS[1]), row.cipher_key) == (TO, "second")


class TestAnyOtherReceiver:
    @pytest.mark.parametrize("trusted", [(), ("webhook:other", "https://shop.example.com", "celery")])
    def test_is_told_none_and_none_is_stored(self, ledger: Ledger, trusted: Collection[str]) -> None:
        row = bounced(ledger, trusted=trusted)
        assert (row.addresses, told(row)) == (None, [None, None])
        assert "leyah" not in stored(ledger)

    def test_is_told_none_if_it_is_trusted_no_more(self, ledger: Ledger) -> None:
        assert told(bounced(ledger), trusted=()) == [None, None]

    def test_is_one_for_all_tasks(self, ledger: Ledger) -> None:
        row = bounced(ledger, trusted=["celery"], on_outcome="shop.tasks.mail_outcome@shop")
        assert told(row, trusted=["celery"]) == TO
