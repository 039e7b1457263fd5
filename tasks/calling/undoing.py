"""The calls of changes that can be undone: what a message is before and after one, and restoring what it was.

read      GET               what the message is; it is kept before the change is made
modify    PUT               what the answer shows is kept, if it is not what was asked for
restore   GET, then PUT     only if the message is still as the change left it
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from sendq.facts.jobs import ClaimedJob
from sendq.messages.forms import encoded, split_parameters
from sendq.rules.changed_fields import BITS
from sendq.rules.message_state import SELECTED, Verdict, read, state_of, verdict, written
from tasks.calling.nylas import Application, NylasClient
from tasks.policy.body import read_body
from tasks.policy.failure import Answer


async def read_message(client: NylasClient, application: Application, grant_id: str, job: ClaimedJob) -> Answer:
    """GET what a modification can change of the job's message."""
    assert job.object_id is not None
    parameters, _ = split_parameters(job.body)
    return await client.message(
        application, grant_id, job.object_id, dict(parse_qsl(parameters)) | {"select": SELECTED}
    )


async def restore(
    client: NylasClient,
    reader: NylasClient,
    application: Application,
    grant_id: str,
    job: ClaimedJob,
    *,
    metadata_key: str,
) -> tuple[Answer, Verdict]:
    """Restore what a message was, unless it was changed since; returns the last answer and what was decided.

    ``reader`` makes the first call. With ``RESTORE`` the answer is that of the last call, whether it failed or not.
    """
    assert job.snapshot is not None
    assert job.object_id is not None
    answer = await read_message(reader, application, grant_id, job)
    if answer.status != 200:
        return answer, Verdict.RESTORE
    parameters, changes = split_parameters(job.body)
    before, after = job.snapshot
    known = read(before)
    left = read(after) if after is not None else requested(changes)
    now = state_of(_data(answer), job.fields or 0)
    found = verdict(now, before=known, left=left, mark=metadata_key)
    if found is Verdict.RESTORE:
        answer = await client.modify(application, grant_id, job.object_id, encoded(known), parameters=parameters)
    return answer, found


def state_before(job: ClaimedJob, answer: Answer) -> bytes:
    """The state of a message that was read, to be kept."""
    return written(state_of(_data(answer), job.fields or 0))


def state_after(job: ClaimedJob, answer: Answer) -> bytes | None:
    """What a change has left, as its answer shows; None: what it asked for."""
    left = state_of(_data(answer), job.fields or 0)
    wanted = requested(split_parameters(job.body)[1])
    return None if {**wanted, **left} == wanted else written({**wanted, **left})


def states_on(job: ClaimedJob, body: bytes) -> list[bytes]:
    """The states of the messages on a page of a listing that has been read."""
    document = read_body(body).document or {}
    return [written(state_of(item, job.fields or 0)) for item in document["data"]]


def requested(changes: bytes) -> dict[str, Any]:
    """The state that a modification asks for."""
    asked: dict[str, Any] = json.loads(changes)
    return {name: asked[name] for name in BITS if name in asked}


def _data(answer: Answer) -> dict[str, Any]:
    document = read_body(answer.body).document or {}
    data = document.get("data")
    return data if isinstance(data, dict) else {}
