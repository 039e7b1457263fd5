"""The bytes of a reply, once it is known to which message it replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from sendq.bindings import payload_context
from sendq.errors import Altered
from sendq.messages.reply_place import has_id, has_place, with_id, with_other_id
from sendq.vault import Vault


class AmbiguousId(Exception):
    """The id of an earlier message cannot be replaced: the same text is elsewhere in the request, too."""


def filled_in(
    job: Row[Any], stored: Row[Any], files: Sequence[Any], written_id: str | None, message_id: str, vault: Vault
) -> dict[str, Any]:
    """The columns of a reply's payload with the id of its message, instead of its place or ``written_id``.

    Raises:
        Altered, NotEncrypted, Unreadable: as `Vault.open`.
        AmbiguousId: it is not known what to replace.
    """
    of_job = (job.id, job.lane_id, job.batch_id, job.operation, job.form, job.object_id)
    context = payload_context(*of_job, stored.content_type, stored.length, files)
    body = vault.open(bytes(stored.body), stored.cipher_key, context=context)
    if written_id is not None:
        if not has_id(body, written_id):
            raise AmbiguousId
        complete = with_other_id(body, written_id, message_id)
    elif has_place(body, job.id):
        complete = with_id(body, job.id, message_id)
    else:
        raise Altered(stored.cipher_key or "")
    length = None if stored.length is None else stored.length + len(complete) - len(body)
    sealed = vault.seal(complete, context=payload_context(*of_job, stored.content_type, length, files))
    return {"job_id": job.id, "body": sealed.data, "length": length, "cipher_key": sealed.key_name}
