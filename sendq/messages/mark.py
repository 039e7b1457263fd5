"""The mark of a message: its job's id, as a metadata pair and as a header.

If the answer to a send is lost, the message is found in the mailbox by its mark.
"""

from __future__ import annotations

JOB_HEADER = "X-Sendq-Job"

# The metadata keys that Nylas indexes, so that a message can be found by them (Nylas, "Metadata").
METADATA_KEYS = ("key1", "key2", "key3", "key4", "key5")


def valid_metadata_key(name: str) -> str:
    """``name``, if Nylas can search for metadata pairs of this name. Raises ``ValueError``."""
    if name not in METADATA_KEYS:
        raise ValueError(f"metadata_key: Nylas can search {', '.join(METADATA_KEYS)} only; use one of them")
    return name
