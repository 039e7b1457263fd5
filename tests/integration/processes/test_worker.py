"""The whole way of a job, through real processes: enqueue, ledger, dispatcher, Redis, Celery, HTTP, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import select

from sendq import Message, NewBatch, Send, State
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from sendq.simulator import Fault, Request
from tests.support.system import API_KEY, System, mail, running_on
from tests.support.waiting import eventually


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker for all tests here; each uses grants of its own."""
    with running_on(request.param, request, tmp_path_factory.mktemp("system")) as system:
        system.start_worker()
        yield system


def sent(system: System, *jobs: str) -> None:
    """Wait until these jobs are sent."""
    for job in jobs:
        eventually(partial(is_sent, system, job), f"job {job} sent")


def is_sent(system: System, job: str) -> bool:
    return system.state(job) is State.SENT


def calls_for(system: System, job: str) -> list[Request]:
    """The requests that carried this job's key."""
    return [one for one in system.api.requests if one.key is not None and one.key.startswith(job)]


def is_over(system: System, batch: str) -> bool:
    return system.queue.batch(batch).waiting == 0


class TestSending:
    def test_a_message_goes_out_once_and_the_ledger_says_so(self, system: System) -> None:
        job = system.queue.send("plain", mail(), key="plain-1")
        sent(system, job.id)
        view = system.queue.job(key="plain-1")
        assert system.accepted()[job.id] == 1
        assert view.message_id == next(one.id for one in system.api.mailbox if one.grant == "plain")
        assert [attempt.rule for attempt in view.trail] == ["accepted"]
        assert view.trail[0].sent == "yes"
        assert view.trail[0].status == 200

    def test_the_request_is_what_the_api_wants(self, system: System) -> None:
        job = system.queue.send("request", mail())
        sent(system, job.id)
        request = next(one for one in system.api.requests if one.grant == "request")
        assert request.headers["content-type"] == "application/json"
        assert request.headers["authorization"] == f"Bearer {API_KEY}"
        assert request.headers["idempotency-key"] == f"{job.id}:0"
        body = json.loads(request.body)
        assert body["metadata"] == {"key1": job.id}
        assert {"name": "X-Sendq-Job", "value": job.id} in body["custom_headers"]

    def test_messages_of_a_batch_with_a_common_text_go_out_whole(self, system: System) -> None:
        text = '<p>Grüße aus dem Mai, "hier".</p>\n' * 100
        messages = [Message(to=[f"ann{number}@example.com"], subject=f"{number}", body=text) for number in range(2)]
        batch = system.queue.send_many([Send("common-text", one) for one in messages], batch=NewBatch())
        eventually(partial(is_over, system, batch.id), "the batch's end")
        with system.engine.connect() as connection:
            forms = connection.execute(select(schema.job.c.form).where(schema.job.c.batch_id == UUID(batch.id)))
            assert set(forms.scalars()) == {"json_text"}
        requests = [one for one in system.api.requests if one.grant == "common-text"]
        assert {(one.status, one.headers["content-type"]) for one in requests} == {(200, "application/json")}
        bodies = sorted((json.loads(one.body) for one in requests), key=lambda body: str(body["subject"]))
        assert [(body["subject"], body["body"]) for body in bodies] == [("0", text), ("1", text)]

    def test_a_hundred_lanes_at_once(self, system: System) -> None:
        jobs = system.queue.send_many([Send(f"many-{number % 100}", mail()) for number in range(300)])
        sent(system, *(job.id for job in jobs))
        accepted = system.accepted()
        assert all(accepted[job.id] == 1 for job in jobs)

    def test_a_job_of_a_transaction_that_rolls_back_was_never_there(self, system: System) -> None:
        with system.engine.connect() as connection:
            transaction = connection.begin()
            lost = system.queue.send("rolled-back", mail(), session=connection)
            transaction.rollback()
        kept = system.queue.send("rolled-back", mail())
        sent(system, kept.id)
        assert system.accepted()[lost.id] == 0


class TestModifying:
    def test_each_message_is_changed_once_and_the_batch_adds_up(self, system: System) -> None:
        ids = [f"<m{number}@mail/+x>" for number in range(30)]
        batch = system.queue.modify("modifies", ids, unread=False, starred=True)
        eventually(partial(is_over, system, batch.id), "the batch's end")
        view = system.queue.batch(batch.id)
        assert dict(view.counts) == {State.SENT: 30}
        assert view.progress == 1
        puts = [request for request in system.api.requests if request.grant == "modifies"]
        assert sorted(request.message_id or "" for request in puts) == sorted(ids)
        assert all(json.loads(request.body) == {"unread": False, "starred": True} for request in puts)

    def test_changes_of_one_message_go_in_the_order_they_were_asked_for(self, system: System) -> None:
        system.api.will(Fault.status(504), grant="ordered", times=1)
        batches = [system.queue.modify("ordered", ["m1"], starred=number % 2 == 0) for number in range(4)]
        for batch in batches:
            eventually(partial(is_over, system, batch.id), "the batch's end")
        done = [json.loads(one.body)["starred"] for one in system.api.requests
                if one.grant == "ordered" and one.status == 200]  # fmt: skip
        assert done == [True, False, True, False]


class TestWhenTheApiSaysNo:
    def test_a_bad_request_is_a_dead_letter_with_its_words(self, system: System) -> None:
        job = system.queue.send("bad", mail("bad@example.com"))
        eventually(lambda: system.state(job.id) is State.DEAD, "the dead letter")
        view = system.queue.job(job.id)
        assert view.rule == "bad_request"
        assert len(view.trail) == 1
        assert view.trail[0].error

    def test_partly_refused_is_never_sent_again(self, system: System) -> None:
        job = system.queue.send("partly", mail("reject@example.com"))
        eventually(lambda: system.state(job.id) is State.DEAD, "the dead letter")
        assert system.queue.job(job.id).trail[0].sent == "partly"
        assert len(calls_for(system, job.id)) == 1

    def test_a_throttled_grant_is_left_alone_until_its_time(self, system: System) -> None:
        system.api.will(Fault.status(429, headers={"Retry-After": "2"}), grant="throttled", times=1)
        jobs = system.queue.send_many([Send("throttled", mail()) for _ in range(3)])
        eventually(lambda: any(one.grant == "throttled" for one in system.api.requests), "the first call")
        others = system.queue.send("not-throttled", mail())
        sent(system, others.id, *(job.id for job in jobs))
        calls = [one for one in system.api.requests if one.grant == "throttled"]
        refused = [one for one in calls if one.status == 429]
        after = [one.at for one in calls if one.at > refused[0].at + 0.5]
        assert min(after) - refused[0].at >= 2.0
        assert all(system.accepted()[job.id] == 1 for job in jobs)

    def test_a_refused_repeat_goes_under_a_new_key(self, system: System) -> None:
        system.api.will(Fault.status(429, headers={"Retry-After": "1"}), grant="new-key", times=1)
        job = system.queue.send("new-key", mail())
        sent(system, job.id)
        keys = [one.key for one in system.api.requests if one.grant == "new-key"]
        assert keys == [f"{job.id}:0", f"{job.id}:1"]

    def test_a_grant_that_needs_its_owner_is_closed_and_the_others_go_on(self, system: System) -> None:
        system.api.grant("reauth", status="invalid")
        waiting = system.queue.send_many([Send("reauth", mail()) for _ in range(5)])
        other = system.queue.send("signed-in", mail())
        sent(system, other.id)
        eventually(lambda: system.queue.why(waiting[0].id).reason == "reauth", "the closed lane")
        assert all(system.state(job.id) is State.QUEUED for job in waiting)
        calls = [one for one in system.api.requests if one.grant == "reauth" and one.operation == "send"]
        assert len(calls) <= 2  # as many as the lane may have on the wire at once


class TestWhenNobodyKnows:
    def test_a_message_that_went_out_behind_a_504_is_not_sent_twice(self, system: System) -> None:
        job = system.queue.send("timeout", mail("timeout@example.com"))
        # The API keeps its 504 under the key, so asking again cannot tell: it stays in doubt, and is not sent anew.
        eventually(lambda: system.state(job.id) is State.IN_DOUBT, "the doubt")
        sends = calls_for(system, job.id)
        assert [one.status for one in sends] == [504, 504]
        assert {one.key for one in sends} == {f"{job.id}:0"}
        assert system.accepted()[job.id] == 1
        assert system.queue.job(job.id).trail[-1].replayed

    def test_a_dropped_connection_is_asked_again_with_the_same_key_and_bytes(self, system: System) -> None:
        system.api.will(Fault.drop(accepted=True, kept="outcome"), grant="dropped", times=1)
        job = system.queue.send("dropped", mail())
        sent(system, job.id)
        sends = calls_for(system, job.id)
        assert len(sends) == 2
        assert len({(one.key, one.body) for one in sends}) == 1
        assert system.accepted()[job.id] == 1


class TestWithdrawing:
    def test_a_cancelled_job_does_not_go_out(self, system: System) -> None:
        system.api.grant("cancelled", status="invalid")
        first = system.queue.send("cancelled", mail())
        eventually(lambda: system.queue.why(first.id).reason == "reauth", "the closed lane")
        assert system.queue.cancel(first.id) is State.CANCELLED
        assert system.queue.cancel(first.id) is State.CANCELLED

    def test_a_job_that_is_past_its_time_expires_in_a_closed_lane_too(self, system: System) -> None:
        system.api.grant("expires", status="invalid")
        job = system.queue.send("expires", mail())
        eventually(lambda: system.queue.why(job.id).reason == "reauth", "the closed lane")
        with writing(system.engine) as connection:
            connection.execute(schema.job.update().where(schema.job.c.id == UUID(job.id)).values(expires_at=1))
        eventually(lambda: system.state(job.id) is State.EXPIRED, "the expiry")


def test_nothing_private_is_in_the_workers_log(system: System) -> None:
    job = system.queue.send("private", mail("bad@marked.example", subject="marked subject"))
    eventually(lambda: system.state(job.id) is State.DEAD, "the dead letter")
    eventually(lambda: job.id in system.workers[0].said(), "the line about it")  # written after the commit
    log = system.workers[0].said()
    assert "marked" not in log
    assert API_KEY not in log


def test_nothing_went_wrong_on_the_way(system: System) -> None:
    assert "Traceback" not in system.workers[0].said()
    assert '"bug"' not in system.workers[0].said()
