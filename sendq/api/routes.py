"""The addresses of the API. The routes and the OpenAPI document are made from this table."""

from __future__ import annotations

from sendq.api import jobs, modifying, sending
from sendq.api.operation import Operation
from sendq.api.tokens import Access

MADE = {201: "Batch", 200: "Batch"}
CHANGED = {200: "Changed"}

OPERATIONS = (
    Operation(
        name="send", method="POST", path="/v1/send", access=Access.WRITE, run=sending.send,
        summary="Enqueue one message", body="Send", form=True, keyed=True, results={201: "Job", 200: "Job"},
    ),
    Operation(
        name="send_many", method="POST", path="/v1/send-many", access=Access.WRITE, run=sending.send_many,
        summary="Enqueue many messages, all or none", body="Sends", results={201: "Jobs", 200: "Jobs"},
    ),
    Operation(
        name="modify", method="POST", path="/v1/modify", access=Access.WRITE, run=modifying.modify,
        summary="Enqueue a change of messages in a mailbox", body="Modify", keyed=True, results=MADE,
    ),
    Operation(
        name="delete", method="POST", path="/v1/delete", access=Access.WRITE, run=modifying.delete,
        summary="Enqueue a deletion of messages in a mailbox", body="Delete", keyed=True, results=MADE,
    ),
    Operation(
        name="create_batch", method="POST", path="/v1/batches", access=Access.WRITE, run=sending.create_batch,
        summary="Make a batch of messages, closed or open", body="NewBatch", keyed=True, results=MADE,
    ),
    Operation(
        name="batch", method="GET", path="/v1/batches/{batch_id}", access=Access.READ, run=sending.batch,
        summary="A batch and its progress", results={200: "BatchView"},
    ),
    Operation(
        name="add", method="POST", path="/v1/batches/{batch_id}/sends", access=Access.WRITE, run=sending.add,
        summary="Add messages to a batch that is open", body="Sends", results=MADE,
    ),
    Operation(
        name="close_batch", method="POST", path="/v1/batches/{batch_id}/close", access=Access.WRITE,
        run=sending.close_batch, summary="Close a batch that is open", body="Nothing", optional=True,
        results={200: "Closed"},
    ),
    Operation(
        name="cancel_batch", method="POST", path="/v1/batches/{batch_id}/cancel", access=Access.WRITE,
        run=sending.cancel_batch, summary="Cancel a batch", body="Reason", optional=True,
        results={200: "BatchView"},
    ),
    Operation(
        name="undo", method="POST", path="/v1/batches/{batch_id}/undo", access=Access.WRITE, run=modifying.undo,
        summary="Undo a batch of modifications that is undoable and has ended", body="Undo", optional=True,
        keyed=True, results=MADE,
    ),
    Operation(
        name="jobs", method="GET", path="/v1/jobs", access=Access.READ, run=jobs.jobs,
        summary="Jobs, page by page, the most recently enqueued first", query=jobs.LIST, results={200: "Page"},
    ),
    Operation(
        name="job", method="GET", path="/v1/jobs/{job_id}", access=Access.READ, run=jobs.job,
        summary="A job with its attempts", results={200: "JobView"},
    ),
    Operation(
        name="why", method="GET", path="/v1/jobs/{job_id}/why", access=Access.READ, run=jobs.why,
        summary="Why a job is in its state", results={200: "Why"},
    ),
    Operation(
        name="cancel", method="POST", path="/v1/jobs/{job_id}/cancel", access=Access.WRITE, run=jobs.cancel,
        summary="Cancel a job", body="Reason", optional=True, results={200: "JobState"},
    ),
    Operation(
        name="replace", method="POST", path="/v1/jobs/{job_id}/replace", access=Access.WRITE,
        run=sending.replace_message, summary="Replace the message of a send that waits", body="Replace", form=True,
        results={200: "Replacement"},
    ),
    *(
        operation
        for name, what, of in (("job", "jobs/{job_id}", "a job"), ("batch", "batches/{batch_id}", "a batch's jobs"))
        for operation in (
            Operation(
                name=f"reschedule_{name}", method="POST", path=f"/v1/{what}/reschedule", access=Access.WRITE,
                run=jobs.reschedule, summary=f"Change when {of} may begin", body="Reschedule", results=CHANGED,
            ),
            Operation(
                name=f"set_priority_{name}", method="POST", path=f"/v1/{what}/priority", access=Access.WRITE,
                run=jobs.set_priority, summary=f"Change the priority of {of}", body="SetPriority", results=CHANGED,
            ),
            Operation(
                name=f"hold_{name}", method="POST", path=f"/v1/{what}/hold", access=Access.WRITE, run=jobs.hold,
                summary=f"Keep {of} from beginning", body="Reason", optional=True, results=CHANGED,
            ),
            Operation(
                name=f"release_{name}", method="POST", path=f"/v1/{what}/release", access=Access.WRITE,
                run=jobs.release, summary=f"End a hold of {of}", body="Reason", optional=True, results=CHANGED,
            ),
        )
    ),
    Operation(
        name="grant", method="GET", path="/v1/grants/{grant_id}", access=Access.READ, run=jobs.grant,
        summary="A grant: whether it is connected, what holds it, how many of its jobs wait",
        results={200: "GrantView"},
    ),
    Operation(
        name="eta", method="GET", path="/v1/grants/{grant_id}/eta", access=Access.READ, run=jobs.eta,
        summary="When a job enqueued now would be carried out", query=jobs.ETA, results={200: "Eta"},
    ),
)  # fmt: skip
