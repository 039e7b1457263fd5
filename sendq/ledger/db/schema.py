"""The ledger's tables: the only truth.

Times are microseconds since 1970, UTC (`sendq.clock`). Every name begins with ``sendq_``, so that the tables can live
in an application's own database. Nothing points at anything with a foreign key: rows of a job are written together,
retention deletes in steps, and a key outlives its job on purpose.

    job ── payload            what goes over the wire, frozen (a modification's bytes are kept once, with its batch)
     ├── piece ── content ── chunk   files of a request; equal ones are kept once
     ├── attempt              one row for each HTTP call
     └── batch ── batch_change   appended counts; progress is their sum
           └── found             messages that a walk has found, until jobs are made of them
    key                       finds a job or batch again, also long after it was pruned
    mark                      how far the keeper has come (`sendq.ledger.retention`)
    wake                      "this lane has new jobs": appended by enqueue, deleted by the dispatcher
    lane ── pair              a lane belongs to one (application, provider); both can be held
    worker, leader            who is alive, and who dispatches; how far the ledger's own history and clock have come
    event                     what happened to lanes and holds, and what operators did, with author and time
    delivery ── receiver      outcomes that somebody wants to be told of; whoever is to hear them, and does not answer
    webhook                   notifications that were taken in
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

# SQLite gives a table its rowid only for INTEGER, not for BIGINT.
Serial = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)


def _when(condition: str) -> dict[str, Any]:
    """A partial index, spelled for both databases."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


job = Table(
    "sendq_job",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("lane_id", Uuid, nullable=False),
    Column("batch_id", Uuid),
    Column("operation", Text, nullable=False),  # send | modify | delete | list (a page of a walk)
    Column("form", Text),  # of a send's request: json | multipart | mime; null: it is no send
    Column("object_id", Text),  # the message or thread that is changed; jobs for one object run one after another
    Column("priority", SmallInteger, nullable=False),  # 0 high, 1 normal, 2 low
    Column("state", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),  # what the caller asked for; never changes
    Column("next_at", BigInteger, nullable=False),  # when it may next begin; a retry moves it
    Column("expires_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),  # those that count; waiting costs none
    Column("deaths", SmallInteger, nullable=False, server_default="0"),  # of processes while it was begun
    Column("conflicts", SmallInteger, nullable=False, server_default="0"),  # "still running" answers in a row
    Column("generation", Integer, nullable=False, server_default="0"),  # of the idempotency key `<id>:<generation>`
    Column("key_at", BigInteger),  # first request with that key; null: the key is unused
    Column("doubt_at", BigInteger),  # last request whose outcome nobody knows; null: every outcome is known
    Column("in_doubt", Text),  # wait | resend | dead: what looking in vain leads to; null: as the workers are set
    # While it is in doubt (`sendq.rules.reconcile`):
    Column("look_at", BigInteger),  # when the mailbox is next asked; null: nobody has taken the doubt up yet
    Column("looks", SmallInteger),  # questions after the time from which "not found" counts
    Column("misses", SmallInteger),  # those of them that proved its absence
    Column("seen", Text),  # what the last one met
    Column("turn", BigInteger),  # the fence of the turn that began it
    Column("begun_at", BigInteger),
    Column("cancel_at", BigInteger),  # asked for while it was on the wire
    Column("finished_at", BigInteger),
    Column("rule", Text),  # the policy's row that decided last
    Column("message_id", Text),  # the provider's id of what was sent
    Column("on_outcome", Text),  # whom to tell when it ends (`sendq.enqueueing.targets`)
    Column("told_key", Text),  # the key it was enqueued with, if somebody is told: the name by which they know it
    # What a lane's turn reads, in its order. Rows leave the index as they begin.
    Index("sendq_job_waiting_idx", "lane_id", "priority", "next_at", "id", **_when("state = 'queued'")),
    Index("sendq_job_begun_idx", "lane_id", **_when("state = 'sending'")),
    Index("sendq_job_doubt_idx", "lane_id", **_when("state = 'in_doubt'")),
    Index("sendq_job_look_idx", "look_at", **_when("state = 'in_doubt'")),
    # Of finished jobs too: what a walk has found may have been changed anew since.
    Index("sendq_job_object_idx", "lane_id", "object_id", **_when("object_id IS NOT NULL")),
    Index("sendq_job_batch_idx", "batch_id", "id", **_when("batch_id IS NOT NULL")),
    Index("sendq_job_batch_dead_idx", "batch_id", "id", **_when("batch_id IS NOT NULL AND state = 'dead'")),
    # Whether a message that is to be modified is one of ours, whose metadata holds our mark.
    Index("sendq_job_message_idx", "message_id", **_when("message_id IS NOT NULL")),
    # All that a list of dead letters is filtered, counted and sorted by.
    Index("sendq_job_dead_idx", "rule", "finished_at", "id", "lane_id", **_when("state = 'dead'")),
    # What retention walks along.
    Index("sendq_job_finished_idx", "state", "finished_at", **_when("finished_at IS NOT NULL")),
    Index("sendq_job_open_key_idx", "id", **_when("state = 'queued' AND doubt_at IS NOT NULL")),
    Index("sendq_job_expiry_idx", "expires_at", **_when("state = 'queued' AND expires_at IS NOT NULL")),
)

payload = Table(
    "sendq_payload",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # the exact bytes of the request, as far as its first content
    Column("content_type", Text, nullable=False),
    Column("length", BigInteger),  # bytes of the request with its contents; null: the body is all of it
    Column("cipher_key", Text),  # which key it is encrypted with; null: none
)

piece = Table(
    "sendq_piece",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("position", SmallInteger, primary_key=True),
    Column("content_id", Uuid, nullable=False),
    Column("after", LargeBinary, nullable=False),  # the exact bytes behind the content
    Column("cipher_key", Text),
    Index("sendq_piece_content_id_idx", "content_id"),
)

content = Table(
    "sendq_content",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Not unique: an enqueue would wait for every other one that brings the same file, until that one commits.
    Column("digest", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Index("sendq_content_digest_idx", "digest"),
)

chunk = Table(
    "sendq_chunk",
    metadata,
    Column("content_id", Uuid, primary_key=True),
    Column("position", SmallInteger, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("cipher_key", Text),
)

batch = Table(
    "sendq_batch",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("lane_id", Uuid, nullable=False),
    Column("operation", Text, nullable=False),  # modify | delete: what its jobs do, but for the pages of its walk
    Column("target", Text, nullable=False),  # message | thread
    Column("hard", Boolean, nullable=False, server_default=text("false")),  # deleted for good, past the trash
    Column("fields", SmallInteger, nullable=False),  # which it changes: see `sendq.rules.changed_fields`
    # A walk finds the messages first: query (one listing) or threads (one for each thread); null: they were given.
    Column("walk", Text),
    Column("listings", Integer, nullable=False, server_default="0"),
    Column("total", Integer),  # null: not known before the walk is over
    Column("body", LargeBinary, nullable=False),  # the request that each of its jobs makes
    Column("content_type", Text, nullable=False),
    Column("cipher_key", Text),  # as in a payload
    Column("created_at", BigInteger, nullable=False),
    # What the jobs get that a walk makes.
    Column("priority", SmallInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("on_outcome", Text),
    Column("told_key", Text),  # the key, for who is told
    Column("making", Boolean, nullable=False, server_default=text("false")),  # the walk is over, jobs are being made
    Column("cancel_at", BigInteger),
    Column("cancelled", Boolean, nullable=False, server_default=text("false")),  # what waited of it has ended
    Column("finished_at", BigInteger),  # its last job has ended; a retry of its dead letters opens it again
    Index("sendq_batch_making_idx", "id", **_when("making")),
    Index("sendq_batch_cancel_idx", "id", **_when("cancel_at IS NOT NULL AND NOT cancelled")),
)

batch_change = Table(
    "sendq_batch_change",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("batch_id", Uuid, nullable=False),
    # A state of its jobs; of its listings `list:<state>`; `page` and `found` of a walk.
    Column("state", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("summed", Boolean, nullable=False, server_default=text("false")),  # a sum of earlier rows
    Index("sendq_batch_change_batch_id_idx", "batch_id"),
    Index("sendq_batch_change_news_idx", "id", **_when("NOT summed")),
)

found = Table(
    "sendq_found",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("object_id", Text, primary_key=True),
)

key = Table(
    "sendq_key",
    metadata,
    Column("application", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    # Of what the key stands for: other content is a conflict. Sealed like a body, which could be guessed by it; empty:
    # forgotten, and then any content is the same.
    Column("digest", LargeBinary, nullable=False),
    Column("cipher_key", Text),
    Column("job_id", Uuid),
    Column("batch_id", Uuid),
    Column("created_at", BigInteger, nullable=False),
    Index("sendq_key_created_at_idx", "created_at"),
)

wake = Table(
    "sendq_wake",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("lane_id", Uuid, nullable=False),
    Column("application", Text, nullable=False),
    Column("grant_id", Text, nullable=False),
    Column("provider", Text),  # null: the caller did not say
    # The earliest due time of the new jobs by priority; null: none of it.
    Column("high_at", BigInteger),
    Column("normal_at", BigInteger),
    Column("low_at", BigInteger),
    # Or SQLite numbers from 1 again whenever the table is empty, and below where the dispatcher looks
    # (`sendq.rules.floors`).
    sqlite_autoincrement=True,
)

lane = Table(
    "sendq_lane",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("application", Text, nullable=False),
    Column("grant_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # When the lane next wants a turn; null: nothing waits, or it is closed.
    Column("next_at", BigInteger),
    # Where a scan for waiting jobs begins, by priority: no waiting job stands before it.
    Column("high_mark", BigInteger, nullable=False, server_default="0"),
    Column("normal_mark", BigInteger, nullable=False, server_default="0"),
    Column("low_mark", BigInteger, nullable=False, server_default="0"),
    # Its one open turn. The fence only grows: (lane, fence) names a turn for ever.
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("turn", Text),  # offered | claimed; null: no open turn
    Column("turn_at", BigInteger),
    Column("turn_worker", Uuid),
    Column("turn_slots", SmallInteger, nullable=False, server_default="0"),  # calls at once that it may make
    Column("served_at", BigInteger),  # when a worker last committed the end of one
    # Pace.
    Column("width", SmallInteger, nullable=False),  # calls at once when all is well
    Column("ramp", SmallInteger, nullable=False),  # calls at once now: 1, 2, 4 … width after a hold
    Column("pace", Text),  # its own, as `sendq.rules.pace.written` says it; null: its provider's
    Column("used", Text),  # what it has used of that, as `sendq.rules.pace.Pacer` says it; null: nothing yet
    Column("ready_at", BigInteger, nullable=False, server_default="0"),  # its next start by that
    Column("spacing", BigInteger, nullable=False, server_default="0"),  # least time between two modifications …
    Column("spacing_until", BigInteger, nullable=False, server_default="0"),  # … until then, if it behaves
    Column("stretch", BigInteger, nullable=False, server_default="0"),  # learned: least time between two starts
    Column("ask_at", BigInteger, server_default="0"),  # when the API is asked who its provider is; null: it was
    # Hold, and closed for reauth.
    Column("held_until", BigInteger),
    Column("held_since", BigInteger),
    Column("held_rule", Text),
    Column("held_by", Text),
    Column("streak", SmallInteger, nullable=False, server_default="0"),  # holds since the last success
    Column("closed_at", BigInteger),
    Column("closed_rule", Text),
    Column(
        "suspected", Boolean, nullable=False, server_default=text("false")
    ),  # closed, and the API is asked about it first
    Column("announced_at", BigInteger),  # when its owner was called for; null: not yet
    Column("check_at", BigInteger),  # when the API is next asked about the grant
    Column("checks", SmallInteger, nullable=False, server_default="0"),
    # Times since the last success that the API called the grant valid and its provider refused it all the same.
    Column("refused", SmallInteger, nullable=False, server_default="0"),
    Column("opened_at", BigInteger),  # last reopened; what was begun before does not close it again
    Column("gone", Boolean, nullable=False, server_default=text("false")),  # the grant exists no more: its jobs end
    Index("sendq_lane_due_idx", "application", "provider", "next_at", **_when("turn IS NULL AND next_at IS NOT NULL")),
    Index("sendq_lane_closed_idx", "check_at", **_when("closed_at IS NOT NULL")),
    Index("sendq_lane_turn_idx", "turn_at", **_when("turn IS NOT NULL")),
    Index("sendq_lane_unasked_idx", "ask_at", **_when("provider = 'unknown' AND ask_at IS NOT NULL")),
)

pair = Table(
    "sendq_pair",
    metadata,
    Column("application", Text, primary_key=True),
    Column("provider", Text, primary_key=True),  # "*": the application as a whole
    # Calls at once in all while it is not known to work: 1, 2, 4 …; null: no such limit.
    Column("ramp", Integer, server_default="1"),
    Column("proven_at", BigInteger),  # a success that is recent enough; null: none yet
    Column("streak", SmallInteger, nullable=False, server_default="0"),  # holds since the last success
    Column("held_until", BigInteger),
    Column("held_since", BigInteger),
    Column("held_rule", Text),
    Column("held_by", Text),
)

attempt = Table(
    "sendq_attempt",
    metadata,
    Column("id", Uuid, primary_key=True),  # made by the worker: recording it twice is a no-op
    Column("job_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("worker_id", Uuid),
    Column("begun_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("status", SmallInteger),  # of HTTP; null: no answer
    Column("rule", Text, nullable=False),
    Column("route", Text),  # retry | requeue | reauth | dead_letter; null: accepted
    Column("sent", Text, nullable=False),  # no | maybe | partly | yes
    Column("error_type", Text),
    Column("error", Text),  # cleaned and bounded; no address
    Column("request_id", Text),
    Column("replayed", Boolean, nullable=False),
    Index("sendq_attempt_job_id_idx", "job_id"),
)

event = Table(
    "sendq_event",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("application", Text),
    Column("provider", Text),
    Column("grant_id", Text),
    Column("job_id", Uuid),  # whom it concerns, or whose answer it was
    Column("batch_id", Uuid),
    Column("rule", Text),
    Column("by", Text, nullable=False),  # policy, webhook, check, or an operator's name
    Column("reason", Text),
    Index("sendq_event_at_idx", "at", "id"),
    Index("sendq_event_grant_idx", "grant_id", "at", "id", **_when("grant_id IS NOT NULL")),
)

delivery = Table(
    "sendq_delivery",
    metadata,
    Column("id", Uuid, primary_key=True),  # of the event, for whoever hears it twice
    Column("target", Text, nullable=False),  # as the caller gave it
    Column("receiver", Text, nullable=False),  # who stands behind it: what is down together
    Column("kind", Text, nullable=False),  # sent | dead | … | reauth_required | batch_finished
    Column("subject", Uuid, nullable=False),  # the job, batch or lane that it is about
    Column("lane_id", Uuid, nullable=False),
    Column("sequence", BigInteger, nullable=False),  # grows with every delivery about its subject
    Column("facts", Text, nullable=False),  # JSON, as things were then
    Column("state", Text, nullable=False),  # waiting | delivered | given_up
    Column("created_at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),  # the first failure after this is the last
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("refusals", Integer, nullable=False, server_default="0"),  # tries that failed for this delivery's own sake
    Column("tried_at", BigInteger),
    Column("done_at", BigInteger),  # delivered, or given up
    Column("error", Text),  # what the last try met; nothing that the receiver said
    Index("sendq_delivery_waiting_idx", "receiver", "next_at", "id", **_when("state = 'waiting'")),
    Index("sendq_delivery_given_up_idx", "id", **_when("state = 'given_up'")),
    Index("sendq_delivery_subject_idx", "subject", "sequence"),
    Index("sendq_delivery_done_idx", "done_at", **_when("done_at IS NOT NULL")),
)

receiver = Table(
    "sendq_receiver",
    metadata,
    Column("name", Text, primary_key=True),
    # Since its last success: deliveries that it refused, and times that it was left alone.
    Column("refusals", Integer, nullable=False),
    Column("holds", Integer, nullable=False),
    Column("held_until", BigInteger),
)

webhook = Table(
    "sendq_webhook",
    metadata,
    Column("id", Text, primary_key=True),  # of the notification: a second delivery changes nothing
    Column("at", BigInteger, nullable=False),
    Index("sendq_webhook_at_idx", "at"),
)

mark = Table(
    "sendq_mark",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
)

worker = Table(
    "sendq_worker",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("beats", BigInteger, nullable=False),  # counts up; staleness is judged by its standing still
    Column("beat_at", BigInteger, nullable=False),
    Column("silent", BigInteger, nullable=False),  # µs for which somebody has watched the count stand still
    Column("capacity", Integer, nullable=False),  # calls at once
    Column("stopping", Boolean, nullable=False),
)

leader = Table(
    "sendq_leader",
    metadata,
    Column("name", Text, primary_key=True),  # "dispatcher"
    Column("holder", Uuid),
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("sleeps_until", BigInteger, nullable=False),  # a commit that wants it sooner wakes it; 0: it is awake
    # Whether this ledger is the one that the workers knew (`sendq.ledger.dispatching.lineage`).
    Column("line", Uuid),  # the name of the ledger's history; `recover` begins a new one
    Column("renewals", BigInteger, nullable=False, server_default="0"),  # of the lease; Redis keeps a copy, the witness
    Column("renewed_at", BigInteger, nullable=False, server_default="0"),
    Column("shut_at", BigInteger),  # since then no turn is dealt out: the witness has seen more; null: all is well
    Column("known_until", BigInteger),  # what happened after that, the ledger does not know; set with `shut_at`
    Column("highest_at", BigInteger, nullable=False, server_default="0"),  # the highest time that anybody has seen
)

# What the schema's version table is called; it stands beside an application's own `alembic_version`.
VERSION_TABLE = "sendq_version"
