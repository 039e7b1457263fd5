"""The mark of a message: its job's id, as a metadata pair and as a header.

If the answer to a send is lost, the message is found in the mailbox by its mark.
"""

from __future__ import annotations

import json

from sendq.messages.forms import encoded

JOB_HEADER = "X-Sendq-Job"

# The metadata keys that Nylas indexes, so that a message can be found by them (Nylas, "Metadata").
METADATA_KEYS = ("key1", "key2", "key3", "key4", "key5")


def valid_metadata_key(name: str) -> str:
    """``name``, if Nylas can search for metadata pairs of this name. Raises ``ValueError``."""
    if name not in METADATA_KEYS:
        raise ValueError(f"metadata_key: Nylas can search {', '.join(METADATA_KEYS)} only; use one of them")
    return name


def keep_mark(changes: bytes, *, job_id: str, metadata_key: str) -> bytes:
    """The body of a modification that replaces metadata, with the mark added, for a message that this queue sent."""
    payload = json.loads(changes)
    payload["metadata"] = {**payload["metadata"], metadata_key: job_id}
    return encoded(payload)
