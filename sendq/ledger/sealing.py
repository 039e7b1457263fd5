"""Rows as they are stored: encrypted and bound (`sendq.bindings`), if the vault has a key. No queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import UUID

from sendq.bindings import File, batch_context, payload_context, tag_context
from sendq.enqueueing.plan import Plan
from sendq.vault import Vault

Row = Mapping[str, Any]


def batch_row(batch: Row, vault: Vault) -> Row:
    """The row of a batch with its body sealed."""
    if not vault or batch["body"] is None:
        return batch
    names = ("id", "lane_id", "operation", "target", "hard", "fields", "content_type")
    body = vault.seal(batch["body"], context=batch_context(*(batch[name] for name in names)))
    return {**batch, "body": body.data, "cipher_key": body.key_name}


def job_rows(jobs: Iterable[Row], vault: Vault) -> Iterable[Row]:
    """The rows of jobs, with a tag for each that has no body of its own."""
    return (_job_row(job, vault) for job in jobs) if vault else jobs


def _job_row(job: Row, vault: Vault) -> Row:
    if job["object_id"] is None:
        return job
    return {**job, **tag(job["batch_id"], job["lane_id"], job["operation"], job["object_id"], vault)}


def tag(batch_id: UUID, lane_id: UUID, operation: str, object_id: str, vault: Vault) -> dict[str, Any]:
    """The columns of a tag; none without a key."""
    if not vault:
        return {}
    made = vault.tag(tag_context(batch_id, lane_id, operation, object_id))
    return {"seal": made.data, "seal_key": made.key_name}


def payload_rows(payloads: Iterable[Row], plan: Plan, vault: Vault) -> Iterable[Row]:
    """The rows of payloads of a plan with their bodies sealed."""
    return _sealed_payloads(payloads, plan, vault) if vault else payloads


def _sealed_payloads(payloads: Iterable[Row], plan: Plan, vault: Vault) -> Iterator[Row]:
    jobs = {job["id"]: job for job in plan.jobs} if plan.payloads else {}
    files: dict[UUID, list[File]] = {}
    for piece in plan.pieces:
        digest = piece["digest"]
        files.setdefault(piece["job_id"], []).append(File(digest, plan.contents[digest].measure().size))
    for payload in payloads:
        yield payload_row(payload, jobs[payload["job_id"]], files.get(payload["job_id"], ()), vault)


def payload_row(payload: Row, job: Row, files: Iterable[File], vault: Vault) -> Row:
    """The row of a job's payload with its body sealed; ``files`` are those of its pieces, in order."""
    if not vault:
        return payload
    of_job = (job["id"], job["lane_id"], job["batch_id"], job["operation"], job["form"], job["object_id"])
    context = payload_context(*of_job, payload["content_type"], payload.get("length"), list(files))
    body = vault.seal(payload["body"], context=context)
    return {**payload, "body": body.data, "cipher_key": body.key_name}
