"""Contents: the files of requests, in chunks, each stored once for all jobs that send it.

Committed contents are found by their digest. ⚑ No transaction waits for another: two that store the same new file at
the same time both store it (with a unique digest the second would wait for the first to commit, and two callers with
two files could deadlock). Later ones use the older copy.

A content that a transaction refers to is locked, and `drop_unused_contents` skips it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, exists, insert, select

from sendq.bindings import File, chunk_context, piece_context
from sendq.errors import InvalidJob, Problem
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, insert_rows
from sendq.messages.content import Content, ContentFault, StoredPiece
from sendq.vault import Vault


def store_pieces(
    connection: Connection, pieces: Sequence[Mapping[str, Any]], contents: Mapping[bytes, Content], *, vault: Vault
) -> None:
    """Insert pieces, and those of their contents (by digest) that are not stored yet.

    Raises:
        InvalidJob: a file changed after it was measured. Roll back: a part of it is stored.
    """
    insert_pieces(connection, pieces, store_contents(connection, pieces, contents, vault=vault), vault=vault)


def store_contents(
    connection: Connection, pieces: Sequence[Mapping[str, Any]], contents: Mapping[bytes, Content], *, vault: Vault
) -> dict[bytes, UUID]:
    """Insert the contents of pieces that are not stored yet; returns the ids of all. Raises as `store_pieces`."""
    wanted = {piece["digest"] for piece in pieces}
    if not wanted:
        return {}
    ids = _known(connection, wanted)
    for digest in wanted - ids.keys():
        ids[digest] = _store(connection, contents[digest], vault)
    return ids


def insert_pieces(
    connection: Connection, pieces: Sequence[Mapping[str, Any]], ids: Mapping[bytes, UUID], *, vault: Vault
) -> None:
    """Insert pieces. ``ids``: those of their contents, which are stored."""
    for some in chunks(pieces):
        insert_rows(connection, schema.piece, [_sealed(piece, ids[piece["digest"]], vault) for piece in some])


def pieces_of(connection: Connection, job_id: UUID, *, vault: Vault) -> list[StoredPiece]:
    """The pieces of a job's request, in order. Raises `Unreadable` if they cannot be decrypted."""
    piece, content = schema.piece.c, schema.content
    # All of them before the first is opened: what cannot be opened raises, and in SQLite a statement that is not read
    # to its end keeps its connection on an old state of the ledger, also after the transaction.
    rows = connection.execute(
        select(piece.position, piece.content_id, content.c.digest, content.c.size, piece.after, piece.cipher_key)
        .join(content, content.c.id == piece.content_id)
        .where(piece.job_id == job_id)
        .order_by(piece.position)
    ).all()
    return [
        StoredPiece(
            row.content_id,
            digest := bytes(row.digest),
            row.size,
            vault.open(bytes(row.after), row.cipher_key, context=piece_context(job_id, row.position, digest)),
        )
        for row in rows
    ]


def chunk_of(connection: Connection, piece: StoredPiece, position: int, *, vault: Vault) -> bytes | None:
    """One chunk of a piece's content; None: it does not exist. Raises `Unreadable` if it cannot be decrypted."""
    content_id = piece.content_id
    table = schema.chunk.c
    row = connection.execute(
        select(table.data, table.cipher_key).where(table.content_id == content_id, table.position == position)
    ).one_or_none()
    if row is None:
        return None
    file = File(piece.digest, piece.size)
    return vault.open(bytes(row.data), row.cipher_key, context=chunk_context(file, position))


def files_of(connection: Connection, jobs: Collection[UUID]) -> dict[UUID, list[File]]:
    """The files of these jobs' requests, in order."""
    piece, content = schema.piece.c, schema.content
    query = (
        select(piece.job_id, content.c.digest, content.c.size)
        .join(content, content.c.id == piece.content_id)
        .where(piece.job_id.in_(jobs))
        .order_by(piece.job_id, piece.position)
    )
    found: dict[UUID, list[File]] = {}
    for row in connection.execute(query):
        found.setdefault(row.job_id, []).append(File(bytes(row.digest), row.size))
    return found


def keys_of_files(connection: Connection, jobs: Collection[UUID]) -> dict[UUID, set[str | None]]:
    """The names of the encryption keys with which the files of these jobs' requests are sealed; None: not sealed."""
    piece, chunk = schema.piece.c, schema.chunk.c
    own = select(piece.job_id, piece.cipher_key).where(piece.job_id.in_(jobs))
    files = select(piece.job_id, chunk.cipher_key).join(schema.chunk, piece.content_id == chunk.content_id)
    found: dict[UUID, set[str | None]] = {}
    for job_id, name in connection.execute(own.union(files.where(piece.job_id.in_(jobs)))):
        found.setdefault(job_id, set()).add(name)
    return found


def drop_unused_contents(connection: Connection, limit: int) -> int:
    """Delete up to ``limit`` contents that no job's request refers to any more. Returns how many were deleted.

    They are locked in one statement and checked again in the next: a new job may refer to one in between.
    """
    content, piece = schema.content, schema.piece
    unused = ~exists().where(piece.c.content_id == content.c.id)
    candidates = select(content.c.id).where(unused).order_by(content.c.id).limit(limit)
    locked = connection.execute(candidates.with_for_update(skip_locked=True)).scalars().all()
    dropped = connection.execute(select(content.c.id).where(content.c.id.in_(locked), unused)).scalars().all()
    if dropped:
        connection.execute(delete(schema.chunk).where(schema.chunk.c.content_id.in_(dropped)))
        connection.execute(delete(content).where(content.c.id.in_(dropped)))
    return len(dropped)


def _sealed(piece: Mapping[str, Any], content_id: UUID, vault: Vault) -> dict[str, Any]:
    job_id, position = piece["job_id"], piece["position"]
    after = vault.seal(piece["after"], context=piece_context(job_id, position, piece["digest"]))
    row = {"job_id": job_id, "position": position, "content_id": content_id}
    return row | {"after": after.data, "cipher_key": after.key_name}


def _known(connection: Connection, digests: Iterable[bytes]) -> dict[bytes, UUID]:
    """The stored contents, by digest; of equal ones the oldest, so that all jobs use the same.

    They are locked against deletion. One that is being deleted at the moment counts as absent, without waiting for it.
    """
    table = schema.content.c
    found: dict[bytes, UUID] = {}
    for some in chunks(sorted(digests)):
        rows = connection.execute(
            select(table.id, table.digest)
            .where(table.digest.in_(some))
            .order_by(table.id.desc())
            .with_for_update(read=True, key_share=True, skip_locked=True)  # FOR KEY SHARE
        )
        found |= {bytes(row.digest): row.id for row in rows}
    return found


def _store(connection: Connection, content: Content, vault: Vault) -> UUID:
    content_id, measure = new_id(), content.measure()
    file = File(measure.digest, measure.size)
    connection.execute(insert(schema.content), {"id": content_id, "digest": measure.digest, "size": measure.size})
    try:
        for position, chunk in enumerate(content.chunks()):
            sealed = vault.seal(chunk, context=chunk_context(file, position))
            row = {"content_id": content_id, "position": position, "data": sealed.data, "cipher_key": sealed.key_name}
            connection.execute(insert(schema.chunk), row)
    except ContentFault as fault:
        raise InvalidJob([Problem("attachments", fault.reason, fault.remedy)]) from None
    return content_id
