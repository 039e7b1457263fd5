"""The calls of changes that can be undone: what a message is before and after one, and restoring what it was.

read      GET               what the message is; it is kept before the change is made
modify    PUT               right after the read of the same turn
          GET, then PUT     otherwise: only if the message is still as it is kept, or it counts as a read
                            what the answer shows is kept, if it is not what was asked for
restore   GET, then PUT     only if the message is still as the change left it
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from sendq.facts.jobs import ClaimedJob
from sendq.messages.forms import encoded, split_parameters
from sendq.rules.changed_fields import BITS
from sendq.rules.message_state import SELECTED, Verdict, alike, before_next, read, state_of, verdict, written
from tasks.calling.nylas import Application, NylasClient
from tasks.policy.body import read_body
from tasks.policy.failure import Answer

# In what a change left: the id that the message has since, where a move gives it another one.
MOVED_TO = "id"


async def read_message(
    client: NylasClient, application: Application, grant_id: str, job: ClaimedJob, *, object_id: str | None = None
) -> Answer:
    """GET what a modification can change of the job's message; ``object_id``: its id by now, if that has changed."""
    name = object_id or job.object_id
    assert name is not None
    parameters, _ = split_parameters(job.body)
    return await client.message(application, grant_id, name, dict(parse_qsl(parameters)) | {"select": SELECTED})


def is_as_kept(job: ClaimedJob, answer: Answer, *, metadata_key: str) -> bool:
    """Whether a message that was read again before its change still is as it is kept."""
    found = read(state_before(job, answer, metadata_key=metadata_key))
    return job.snapshot is not None and alike(found, read(job.snapshot[0]))


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
    parameters, changes = split_parameters(job.body)
    before, after = job.snapshot
    known = read(before)
    left = read(after) if after is not None else requested(changes)
    object_id = left.pop(MOVED_TO, job.object_id)
    answer = await read_message(reader, application, grant_id, job, object_id=object_id)
    if answer.status != 200:
        return answer, Verdict.RESTORE
    now = state_of(_data(answer), job.fields or 0)
    found = verdict(now, before=known, left=left, mark=metadata_key)
    if found is Verdict.RESTORE:
        answer = await client.modify(application, grant_id, object_id, encoded(known), parameters=parameters)
    return answer, found


def state_before(job: ClaimedJob, answer: Answer, *, metadata_key: str) -> bytes:
    """The state of a message that was read, to be kept as what it was before its change."""
    found = before_next(
        state_of(_data(answer), job.fields or 0),
        kept={} if job.snapshot is None else read(job.snapshot[0]),
        asked=requested(split_parameters(job.body)[1]),
        mark=metadata_key,
        repeated=job.doubt_at is not None or job.generation > 0,
    )
    return written(found)


def state_after(job: ClaimedJob, answer: Answer) -> bytes | None:
    """What a change has left, as its answer shows; None: what it asked for, and no other id."""
    data = _data(answer)
    wanted = requested(split_parameters(job.body)[1])
    left = {**wanted, **state_of(data, job.fields or 0)}
    name = data.get("id")
    if isinstance(name, str) and name and name != job.object_id:
        left[MOVED_TO] = name
    return None if left == wanted else written(left)


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
