"""The undo of bulk changes, from the command line."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from sendq import NewBatch, Send, clock
from sendq.ledger.db import schema
from sendq.ledger.jobs import append_batch_changes
from tests.integration.commands.test_operators import as_json
from tests.integration.ledger.test_undo import changed, lead
from tests.support.commands import Cli
from tests.support.ledger import MESSAGE, Ledger


def test_starts_one_names_it_and_says_what_was_left_alone(cli: Cli, ledger: Ledger) -> None:
    ledger.clock.at = clock.now()
    batch = changed(ledger)
    assert f"sendq undo --batch {batch.id}" in cli("batch", batch.id)[1]
    status, out, _ = cli("undo", "--batch", batch.id, "--reason", "a mistake", "--by", "anna", "--dry-run")
    assert (status, out.startswith("3 messages would be restored"), len(ledger.rows(schema.batch))) == (0, True, 1)
    made = as_json(cli("undo", "--batch", batch.id, "--reason", "a mistake", "--by", "anna", "--json"))
    assert (made["batch_id"], made["total"], made["existed"]) == (batch.id, 3, False)
    assert f"batch {made['undo_id']} is undoing it already" in cli("undo", "--batch", batch.id)[1]
    (event,) = as_json(cli("events", "--batch", batch.id, "--json"))["items"]
    assert (event["kind"], event["by"], event["reason"].endswith(": a mistake")) == ("undo", "anna", True)
    undo = UUID(made["undo_id"])
    rules = ["changed_since", "changed_since", "gone_since"]
    jobs = sorted(row.id for row in ledger.rows(schema.job) if row.batch_id == undo)
    for job, rule in zip(jobs, rules, strict=True):
        ledger.set_job(job, state="cancelled", rule=rule, finished_at=ledger.clock())
    with ledger.writing() as connection:
        append_batch_changes(connection, Counter({(undo, "cancelled"): 3}), now=ledger.clock())
    lead(ledger)
    out = cli("batch", made["undo_id"])[1]
    assert f"it undoes batch {batch.id}" in out
    assert "left alone: 2 (changed since): m0, m1" in out
    assert "left alone: 1 (gone since): m2" in out
    status, _, err = cli("undo", "--batch", made["undo_id"])
    assert (status, err) == (1, f"sendq: batch {made['undo_id']} is an undo itself; modify the messages again\n")
    keyed = ("undo", "--batch", batch.id, "--undo-key", "undo-1", "--json")
    again = as_json(cli(*keyed))
    assert (again["existed"], again["undo_id"] == made["undo_id"]) == (False, False)
    assert as_json(cli(*keyed)) == again | {"existed": True}
    ledger.queue.modify("g1", ["m9"], unread=False, key="taken")
    status, out, err = cli("undo", "--batch", batch.id, "--undo-key", "taken")
    assert (status, out, "different content" in err, "nothing was changed" in err) == (1, "", True, True)
    status, _, err = cli("undo", "--batch", batch.id, "--undo-key", "")
    assert (status, err) == (2, "sendq: --undo-key is empty; give one that identifies the content\n")


def test_finds_the_batch_by_its_key(cli: Cli, ledger: Ledger) -> None:
    ledger.clock.at = clock.now()
    batch = changed(ledger, key="tidy")
    named = ("--key", "tidy")
    made = as_json(cli("undo", *named, "--json", "--dry-run"))
    assert (made["batch_id"], made["total"]) == (batch.id, 3)
    assert cli("undo", *named, "--application", "crm", "--dry-run")[0] == 1
    for wrong in ([], ["--batch", batch.id, *named]):
        status, _, err = cli("undo", *wrong)
        assert (status, "give either --batch or --key" in err) == (2, True)


def test_of_what_cannot_be_undone_fails_with_its_state(cli: Cli, ledger: Ledger) -> None:
    ledger.clock.at = clock.now()
    going = ledger.queue.modify("g1", ["m1"], unread=False, undoable=True)
    plain = ledger.queue.modify("g1", ["m1"], unread=False)
    sends = ledger.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch())
    for batch, says in (
        (going, "still goes on; wait until it has ended, or cancel it first"),
        (plain, "keeps no snapshots: it was enqueued without undoable=True; modify the messages again"),
        (sends, "is a batch of sends, which cannot be undone; sendq cancel --batch ends what waits of one"),
    ):
        assert cli("undo", "--batch", batch.id) == (1, "", f"sendq: batch {batch.id} {says}\n")
