"""Jobs that wait for approval, from the command line."""

from __future__ import annotations

from uuid import UUID

import pytest

from sendq import NewBatch, Send, State, clock
from sendq.ledger.db import schema
from tests.integration.commands.test_operators import as_json
from tests.support.commands import Cli
from tests.support.ledger import MESSAGE, Ledger


@pytest.fixture
def job(ledger: Ledger) -> str:
    ledger.clock.at = clock.now()
    made = ledger.send(key="agent-9", provider="google", needs_approval=True, tags={"agent": "a7"})
    ledger.absorb()
    return str(made)


class TestApprove:
    def test_a_job_that_was_found_in_the_list(self, cli: Cli, ledger: Ledger, job: str) -> None:
        ledger.send()
        assert [one["id"] for one in as_json(cli("jobs", "--rule", "needs_approval", "--json"))["items"]] == [job]
        assert "waits for approval" in cli("why", job)[1]
        assert "jobs that wait for approval: 1; unless approved, the first is given up at" in cli("status")[1]
        status, out, _ = cli("approve", job, "--reason", "read it", "--by", "anna")
        assert (status, out) == (0, "1 job approved\n")
        (event,) = as_json(cli("events", "--job", job, "--json"))["items"]
        assert (event["kind"], event["by"], event["reason"]) == ("approve", "anna", "read it")
        assert "wait for approval" not in cli("status")[1]

    def test_by_key_and_by_tag_after_a_dry_run(self, cli: Cli, ledger: Ledger, job: str) -> None:
        for given in (["--key", "agent-9"], ["--tag", "agent=a7", "--application", "default"]):
            status, out, _ = cli("approve", *given, "--dry-run")
            assert (status, out) == (0, "1 job would be approved; nothing was changed\n")
        assert ledger.job(UUID(job)).approved_at is None
        out = as_json(cli("approve", "--tag", "agent=a7", "--by", "anna", "--json"))
        assert out == {"dry_run": False, "approved": 1, "refused": {}}

    def test_just_the_content_that_was_read(self, cli: Cli, ledger: Ledger, job: str) -> None:
        assert f"to approve just this content: sendq approve {job} --content 0\n" in cli("why", job)[1]
        ledger.queue.replace(job, MESSAGE.model_copy(update={"subject": "another"}))
        status, out, err = cli("approve", job, "--content", "0")
        assert (status, out, "its content is another one: version 1, not 0" in err) == (1, "0 jobs approved\n", True)
        assert as_json(cli("jobs", "--rule", "needs_approval", "--json"))["items"][0]["content_version"] == 1
        assert f"sendq approve {job} --content 1\n" in cli("why", job)[1]
        assert cli("approve", "--key", "agent-9", "--content", "1")[0] == 0
        for many in (["--tag", "agent=a7"], [job, job[:-1] + "0"], [job, "--key", "agent-9"]):
            assert cli("reject", *many, "--content", "1")[0] == 2
        assert cli("reject", job, "--content", "-1")[0] == 2

    def test_a_batch_once_it_is_closed(self, cli: Cli, ledger: Ledger) -> None:
        ledger.clock.at = clock.now()
        new = NewBatch(needs_approval=True, open=True)
        batch = ledger.queue.send_many([Send("g1", MESSAGE), Send("g2", MESSAGE)], batch=new).id
        assert f"2 of its jobs wait for approval: sendq approve --batch {batch}" in cli("batch", batch)[1]
        status, out, err = cli("approve", "--batch", batch)
        assert (status, out, "is open" in err, "close it first" in err) == (1, "", True, True)
        ledger.queue.close_batch(batch)
        assert cli("approve", "--batch", batch)[:2] == (0, "2 jobs approved\n")

    def test_of_what_does_not_wait_fails_with_its_state(self, cli: Cli, ledger: Ledger, job: str) -> None:
        ledger.queue.cancel(job)
        plain = str(ledger.send())
        status, out, err = cli("approve", job, plain)
        assert (status, out) == (1, "0 jobs approved\n")
        assert f"the job {job} is cancelled: it has ended; nothing was changed" in err
        assert f"the job {plain} is queued: it needs no approval; nothing was changed" in err
        assert cli("approve", "--tag", "agent=a7")[0] == 1
        assert cli("approve", "no id")[0] == 1

    @pytest.mark.parametrize("given", [[], ["JOB", "--tag", "a=b"], ["JOB", "--key", "k", "--batch", "b"]])
    def test_refuses_what_cannot_be_meant(self, cli: Cli, ledger: Ledger, given: list[str]) -> None:
        assert cli("approve", *given)[0] == 2


class TestReject:
    def test_cancels_it(self, cli: Cli, ledger: Ledger, job: str) -> None:
        assert cli("reject", job, "--reason", "wrong price", "--by", "anna")[:2] == (0, "1 job rejected\n")
        assert ledger.state(UUID(job)) is State.CANCELLED
        assert [row.kind for row in ledger.rows(schema.event)] == ["reject"]
        assert "was rejected, so it was not sent" in cli("why", job)[1]
