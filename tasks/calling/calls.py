"""Maps a job to its request and its kind for the policy, and reads what an answer means beyond its status.

    send     POST    /messages/send              a message, under an idempotency key
    modify   PUT     /messages/{id}              changes; of a whole thread: /threads/{id}
    delete   DELETE  /messages/{id}              to the trash; ``hard``: for good
    list     GET     /messages?…                 a page of a listing
    read     GET     /messages/{id}              what it is before a change that can be undone
    restore  GET, PUT  /messages/{id}            see `tasks.calling.undoing`

The policy has two kinds: *send*, which must never be done twice, and *modify*, which may be repeated after any
transient failure. Deletions and listings are of the second kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl

from sendq.clock import Micros
from sendq.enqueueing.page_query import page_query
from sendq.facts.jobs import ClaimedJob
from sendq.facts.outcomes import Page
from sendq.messages.forms import MIME, split_parameters
from sendq.messages.mark import keep_mark
from sendq.rules.rule_ids import DIED, RETURNED, STOPPED
from tasks.calling.nylas import Application, NylasClient
from tasks.calling.page import Listed, read_page
from tasks.calling.undoing import read_message, states_on
from tasks.calling.upload import Upload
from tasks.policy.failure import Answer, Failure, Success, parse

# After any failure, this page and the following ones are requested in this size: large pages use up quotas and run into
# timeouts (the vendor's pages "Error 429" and "Request timed out").
SMALL_PAGE = 5

# Rules left by a call that was begun but got no answer, which does not mean that the page was too large.
UNANSWERED = (None, RETURNED, DIED, STOPPED)


def kind_of(operation: str) -> str:
    """The policy's kind of an operation: ``send`` or ``modify``."""
    return "send" if operation == "send" else "modify"


async def make_call(
    client: NylasClient,
    application: Application,
    grant_id: str,
    job: ClaimedJob,
    *,
    metadata_key: str,
    upload: Callable[[ClaimedJob], Upload],
) -> Answer:
    """Make the request of a job.

    ``metadata_key``: the key of the metadata pair that marks our messages. ``upload`` returns the body of a request
    with files.
    """
    match job.operation:
        case "send":
            key = f"{job.id}:{job.generation}"
            body = job.body if job.length is None else upload(job)
            mime = job.form == MIME
            return await client.send(application, grant_id, body, key, content_type=job.content_type, mime=mime)
        case "list":
            return await client.find(application, grant_id, _asked(job))
        case "read":
            return await read_message(client, application, grant_id, job)
    assert job.object_id is not None
    parameters, body = split_parameters(job.body)
    if job.operation == "delete":
        return await client.delete(application, grant_id, job.object_id, hard=bool(job.hard), parameters=parameters)
    if job.sender_id is not None:  # it replaces the metadata of a message that this ledger sent
        body = keep_mark(body, job_id=str(job.sender_id), metadata_key=metadata_key)
    if job.target == "thread":
        return await client.modify_thread(application, grant_id, job.object_id, body, parameters=parameters)
    return await client.modify(application, grant_id, job.object_id, body, parameters=parameters)


def read_answer(
    job: ClaimedJob, answer: Answer, *, provider: str, now: Micros, grant_id: str | None = None
) -> tuple[Success | Failure, Page | None]:
    """What an answer means for this job, and the page of a listing. Never raises, whatever the bytes.

    ``grant_id``: the grant that was called; None if it is not known.
    """
    result = parse(answer, provider=provider, operation=kind_of(job.operation), now=now, grant_id=grant_id)
    if job.operation == "delete" and isinstance(result, Failure) and is_gone(result) and job.doubt_at is not None:
        # An earlier request of this job may have deleted it, with only the answer lost.
        return Success(404, None, None, result.request_id, replayed=False, queued=False), None
    if job.operation != "list" or isinstance(result, Failure):
        return result, None
    listed = read_page(answer.body)
    if listed is None:  # an unreadable page is no success: it is requested again, as after a broken connection
        broken = Answer(None, answer.headers, b"", "cut")
        return parse(broken, provider=provider, operation=kind_of(job.operation), now=now), None
    page = _page(job, listed)
    return result, replace(page, states=states_on(job, answer.body)) if job.undoable else page


def is_gone(failure: Failure) -> bool:
    """Whether the message does not exist."""
    return failure.status == 404 and failure.type != "grant.not_found" and failure.origin != "edge"


def _asked(job: ClaimedJob) -> dict[str, str]:
    """The query of a page."""
    query = dict(parse_qsl(job.body.decode(), keep_blank_values=True))
    if job.rule not in UNANSWERED:
        query["limit"] = str(min(SMALL_PAGE, int(query["limit"])))
    return query


def _page(job: ClaimedJob, listed: Listed) -> Page:
    """The page as the ledger stores it, with the query for the next one."""
    if listed.cursor is None:
        return Page(listed.ids, None, job.content_type)
    asked = _asked(job)
    limit, select = int(asked.pop("limit")), asked.pop("select", "id")
    following = page_query(asked | {"page_token": listed.cursor}, limit=limit, select=select)
    return Page(listed.ids, following, job.content_type)
