"""The ledger's tables: the only source of truth.

Times are microseconds since 1970, UTC (`sendq.clock`). Every name begins with ``sendq_``, so that the tables can live
in an application's own database. There are no foreign keys: the rows of a job are written together, retention deletes
in steps, and a key outlives its job on purpose.

    job ── payload            the exact bytes of the request (those of a modification are stored once, with its batch)
     ├── piece ── content ── chunk   files of a request; equal files are stored once
     ├── attempt              one row for each HTTP call
     ├── job_tag              one row for each tag ── tag_hold: jobs with this tag wait
     ├── after                of a job that follows another: which one, and how far it is
     ├── snapshot             of a message that a job changes: what it was before, for an undo
     └── batch ── batch_change   appended counts; progress is their sum
           └── found             messages that a walk has found, until it makes jobs of them
    key                       names a job or batch, even long after it was pruned
    prune_cursor              how far the pruner has come (`sendq.ledger.retention`)
    wake                      "this lane has new jobs": appended by enqueue, deleted by the dispatcher
    budget                    how many sends of an application or tag began in the current window
    lane ── pair              a lane belongs to one (application, provider); both can be held
    worker, leader            which workers are alive, and which one dispatches; the ledger's history and highest time
    event                     what happened to lanes and holds, and what operators did, with author and time
    delivery ── receiver      outcomes to be delivered; receivers that do not answer
    webhook                   notifications of Nylas that were received
    delivery_status           what became of a sent mail ── recipient_status: and of each recipient's copy
    notice_count              notifications about mail, counted
    suppression               recipients who get no more mail of an application, or none of a category
    secret                    random keys that the ledger itself needs
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
    """The condition of a partial index, for both databases."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


job = Table(
    "sendq_job",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("lane_id", Uuid, nullable=False),
    Column("batch_id", Uuid),
    Column("operation", Text, nullable=False),  # send | modify | delete | list (a page of a walk) | read | restore
    Column("form", Text),  # of a send's request: json | json_text | multipart | mime; null: not a send
    Column("object_id", Text),  # the message or thread that is changed; jobs for one object run one after another
    Column("priority", SmallInteger, nullable=False),  # 0 high, 1 normal, 2 low
    Column("state", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),  # what the caller asked for; only `reschedule` changes it
    Column("next_at", BigInteger, nullable=False),  # when it may next begin; a retry moves it
    # While a person holds it (`next_at` is then `HELD`), or it waits for approval: when it may begin after that.
    Column("resume_at", BigInteger),
    Column("expires_at", BigInteger),
    # Until when it may wait for approval (`next_at` is then `UNAPPROVED`, and `resume_at` is set); null: it needs none.
    Column("approve_by", BigInteger),
    Column("approved_at", BigInteger),  # null: not approved
    Column("created_at", BigInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),  # used up; waiting uses none
    Column("deaths", SmallInteger, nullable=False, server_default="0"),  # of processes while it was begun
    Column("conflicts", SmallInteger, nullable=False, server_default="0"),  # "still running" answers in a row
    Column("generation", Integer, nullable=False, server_default="0"),  # of the idempotency key `<id>:<generation>`
    Column("content_version", Integer, nullable=False, server_default="0"),  # of its message: 0 as enqueued
    Column("key_at", BigInteger),  # first request with that key; null: the key is unused
    Column("doubt_at", BigInteger),  # last request with an unknown outcome; null: every outcome is known
    Column("in_doubt", Text),  # wait | resend | dead: if it is not found in the mailbox; null: the workers' setting
    # While it is in doubt (`sendq.rules.reconcile`):
    Column("refused_at", BigInteger),  # its request was answered then: refused; null: how it ended is unknown
    Column("look_at", BigInteger),  # when to search the mailbox next; null: no search is planned yet
    Column("looks", SmallInteger),  # searches after the time from which "not found" counts
    Column("misses", SmallInteger),  # those of them that proved its absence
    Column("seen", Text),  # what the last search found
    Column("turn", BigInteger),  # the fence of the turn that began it
    Column("begun_at", BigInteger),
    Column("cancel_at", BigInteger),  # requested while a call was in flight
    Column("finished_at", BigInteger),
    Column("rule", Text),  # the policy's row that decided last
    Column("message_id", Text),  # the provider's id of what was sent
    Column("on_outcome", Text),  # where to send the outcome (`sendq.enqueueing.targets`)
    Column("key", Text),  # it was enqueued with; null: none, or its batch has it
    Column("seal", LargeBinary),  # of a job without a body of its own: proves that its batch is about this object
    Column("seal_key", Text),  # name of the encryption key that made it; null: there is none
    Column("tags", Text),  # in the form of `sendq.rules.tags.stored_tags`; null: none
    Column("traceparent", Text),  # of the span that enqueued it (W3C Trace Context); null: none, or its batch has it
    Column("time_window", Text),  # when it may begin (`sendq.rules.windows`); null: whenever its lane's says
    # What a lane's turn reads, in its order. Rows leave the index when they begin.
    Index("sendq_job_waiting_idx", "lane_id", "priority", "next_at", "id", **_when("state = 'queued'")),
    Index("sendq_job_begun_idx", "lane_id", **_when("state = 'sending'")),
    Index("sendq_job_doubt_idx", "lane_id", **_when("state = 'in_doubt'")),
    Index("sendq_job_look_idx", "look_at", **_when("state = 'in_doubt'")),
    # Finished jobs too: a message that a walk found may have been changed again since.
    Index("sendq_job_object_idx", "lane_id", "object_id", **_when("object_id IS NOT NULL")),
    Index("sendq_job_batch_idx", "batch_id", "id", **_when("batch_id IS NOT NULL")),
    Index("sendq_job_batch_dead_idx", "batch_id", "id", **_when("batch_id IS NOT NULL AND state = 'dead'")),
    # Whether a message to be modified was sent by this queue, so that its metadata contains the mark.
    Index("sendq_job_message_idx", "message_id", **_when("message_id IS NOT NULL")),
    # Everything that a list of dead letters is filtered, counted and sorted by.
    Index("sendq_job_dead_idx", "rule", "finished_at", "id", "lane_id", **_when("state = 'dead'")),
    # The order in which retention walks.
    Index("sendq_job_finished_idx", "state", "finished_at", **_when("finished_at IS NOT NULL")),
    Index("sendq_job_open_key_idx", "id", **_when("state = 'queued' AND doubt_at IS NOT NULL")),
    Index("sendq_job_outside_idx", "next_at", **_when("state = 'queued' AND rule = 'outside_window'")),
    Index("sendq_job_over_budget_idx", "next_at", "id", **_when("state = 'queued' AND rule = 'over_budget'")),
    Index("sendq_job_expiry_idx", "expires_at", **_when("state = 'queued' AND expires_at IS NOT NULL")),
    Index(
        "sendq_job_batch_approval_idx",
        "batch_id",
        **_when("state = 'queued' AND approve_by IS NOT NULL AND approved_at IS NULL AND batch_id IS NOT NULL"),
    ),
    Index(
        "sendq_job_approval_idx",
        "approve_by",
        "id",
        **_when("state = 'queued' AND approve_by IS NOT NULL AND approved_at IS NULL"),
    ),
)

# The index of tags. A separate table, because each update of a job also rewrites its entries in the indexes of its own
# table.
job_tag = Table(
    "sendq_job_tag",
    metadata,
    Column("tag", Text, primary_key=True),  # `campaign=may`
    Column("job_id", Uuid, primary_key=True),
    sqlite_with_rowid=False,
)

tag_hold = Table(
    "sendq_tag_hold",
    metadata,
    Column("application", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("held_until", BigInteger, nullable=False),  # 0: it was released
    Column("held_since", BigInteger, nullable=False),
    Column("held_by", Text, nullable=False),
    Column("brought_back_to", Uuid),  # when it is over: the last job that the leader has looked at; null: none yet
)

# What has been used of each budget; no row before its first send. The whole application: an empty tag.
budget = Table(
    "sendq_budget",
    metadata,
    Column("application", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    # The length of its windows; in the key, so that workers with different settings do not reset each other's count.
    Column("per", BigInteger, primary_key=True, autoincrement=False),
    Column("most", BigInteger, nullable=False),
    Column("window_at", BigInteger, nullable=False),  # the window in which it was used last
    Column("used", BigInteger, nullable=False),  # sends that began in it
    Column("over_at", BigInteger),  # since when sends wait, in this window or an earlier one; null: never
    Column("announced_at", BigInteger),  # the last `over_at` for which there is an event
)

# Followers whose time is set, in two kinds: with ``unless="replied"`` the thread is read first, unless something that
# decides without it was reported. Queries name these conditions as they are here, or no index fits them.
READS_THREAD = (
    "check_at IS NOT NULL AND unless <> 'bounced' AND replied_at IS NULL AND bounced_at IS NULL"
    " AND message_id IS NOT NULL"
)
READS_NO_THREAD = (
    "check_at IS NOT NULL AND (unless IS NULL OR unless = 'bounced' OR replied_at IS NOT NULL"
    " OR bounced_at IS NOT NULL OR message_id IS NULL)"
)

# A row of its own, so that jobs that follow none cost nothing.
after = Table(
    "sendq_after",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("after_id", Uuid, nullable=False),  # the job that it follows
    Column("stage", Text, nullable=False),  # waiting | timed | released | done: `sendq.rules.after`
    Column("depth", SmallInteger, nullable=False),  # its place in its chain: 1 follows a job that follows none
    Column("delay", BigInteger, nullable=False),  # µs from when that job was sent
    Column("unless", Text),  # replied, bounced, or both with a space; null: sent in any case
    Column("replies", Boolean, nullable=False),  # it replies to that job's mail
    Column("lifetime", BigInteger),  # µs from its start to its expiry; null: its expiry is set, or it has none
    # Of the job that it follows, once that was sent:
    Column("start_at", BigInteger),  # when it was sent, and the delay
    Column("lane_id", Uuid),
    Column("message_id", Text),
    Column("check_at", BigInteger),  # when the leader looks at it next; null: still waiting, or done
    Column("checks", SmallInteger, nullable=False, server_default="0"),  # failed readings of the thread in a row
    Column("trouble", Text),  # why it could not be released at the last check; null: it could
    Column("replied_at", BigInteger),  # when an answer was reported; null: none was
    Column("bounced_at", BigInteger),  # when a bounce was reported since that job was sent; null: none was
    Column("released_at", BigInteger),
    Column("written_id", Text),  # of a reply: the message's id in its bytes; null: its place
    Index("sendq_after_after_id_idx", "after_id"),
    Index("sendq_after_waiting_idx", "job_id", **_when("stage = 'waiting'")),
    Index("sendq_after_check_idx", "check_at", "job_id", **_when(READS_NO_THREAD)),
    Index("sendq_after_read_idx", "check_at", "job_id", **_when(READS_THREAD)),
    Index("sendq_after_lane_idx", "lane_id", "check_at", "job_id", **_when(READS_THREAD)),  # fair turns of the lanes
    Index("sendq_after_released_idx", "check_at", "job_id", **_when("check_at IS NOT NULL AND stage = 'released'")),
)

payload = Table(
    "sendq_payload",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # the exact bytes of the request, up to its first content
    Column("content_type", Text, nullable=False),
    Column("length", BigInteger),  # bytes of the request with its contents; null: it has no contents
    Column("cipher_key", Text),  # name of the key that encrypted it; null: not encrypted
)

piece = Table(
    "sendq_piece",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("position", SmallInteger, primary_key=True),
    Column("content_id", Uuid, nullable=False),
    Column("after", LargeBinary, nullable=False),  # the exact bytes after the content
    Column("cipher_key", Text),
    Index("sendq_piece_content_id_idx", "content_id"),
)

content = Table(
    "sendq_content",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Not unique: else an enqueue would wait for the commit of every other one with the same file.
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
    Column("application", Text, nullable=False),
    Column("lane_id", Uuid),  # null: its jobs are of several grants
    Column("operation", Text, nullable=False),  # send | modify | delete | restore: what its jobs do in the end
    Column("target", Text, nullable=False),  # message | thread
    Column("hard", Boolean, nullable=False, server_default=text("false")),  # deleted permanently, not just trashed
    Column("fields", SmallInteger, nullable=False),  # the fields it changes: see `sendq.rules.changed_fields`
    # A walk finds the messages first: query (one listing) or threads (one per thread); null: the caller named them.
    Column("walk", Text),
    Column("listings", Integer, nullable=False, server_default="0"),
    Column("undoable", Boolean, nullable=False, server_default=text("false")),  # its jobs keep snapshots
    Column("undoes", Uuid),  # the batch whose changes it undoes
    Column("open", Boolean, nullable=False, server_default=text("false")),  # sends are still added to it
    Column("total", Integer),  # null: unknown until the walk is over, or while it is open
    Column("body", LargeBinary),  # the request that each of its jobs makes; null: each has its own body
    Column("content_type", Text),
    Column("cipher_key", Text),  # as in a payload
    Column("created_at", BigInteger, nullable=False),
    # Copied to the jobs that a walk makes.
    Column("priority", SmallInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("on_outcome", Text),
    Column("key", Text),
    Column("tags", Text),
    Column("making", Boolean, nullable=False, server_default=text("false")),  # the walk is over, jobs are being made
    Column("held_at", BigInteger),  # held by a person since; jobs that a walk makes are held too
    Column("needs_approval", Boolean, nullable=False, server_default=text("false")),  # so do jobs that join it later
    Column("cancel_at", BigInteger),
    Column("cancelled", Boolean, nullable=False, server_default=text("false")),  # all of its waiting jobs have ended
    Column("finished_at", BigInteger),  # its last job has ended; a retry of dead letters reopens it
    Column("traceparent", Text),
    Column("time_window", Text),  # as in a job; for those that are added or that its walk makes
    Column("spread", BigInteger),  # over this long, in µs, the due times of added messages are spread; null: not at all
    Column("spread_until", BigInteger),  # the latest end of the spreads so far; null: none, or it was rescheduled since
    Index("sendq_batch_making_idx", "id", **_when("making")),
    Index("sendq_batch_undoes_idx", "undoes", **_when("undoes IS NOT NULL")),
    Index("sendq_batch_cancel_idx", "id", **_when("cancel_at IS NOT NULL AND NOT cancelled")),
    Index("sendq_batch_finished_at_idx", "finished_at", **_when("finished_at IS NOT NULL")),
)

batch_change = Table(
    "sendq_batch_change",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("batch_id", Uuid, nullable=False),
    # A state of its jobs; of its listings `list:<state>`; `page` and `found` of a walk; `added` while it is open.
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
    Column("seal", LargeBinary),  # of the job that it becomes
    Column("seal_key", Text),
    Column("before", LargeBinary),  # of its snapshot; null: the batch keeps none
    Column("before_key", Text),
)

# Of a message, the fields that the job's batch changes (`sendq.rules.message_state`); encrypted like a body.
snapshot = Table(
    "sendq_snapshot",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("before", LargeBinary, nullable=False),
    Column("before_key", Text),
    Column("after", LargeBinary),  # what the change left; null: what it asked for
    Column("after_key", Text),
)

key = Table(
    "sendq_key",
    metadata,
    Column("application", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    # Digest of the content that the key names: different content is a conflict. Encrypted like a body, which could be
    # guessed from it. Empty: erased, and then any content counts as the same.
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
    Column("provider", Text),  # null: the caller did not name it
    # The earliest due time of the new jobs by priority; null: no job of this priority.
    Column("high_at", BigInteger),
    Column("normal_at", BigInteger),
    Column("low_at", BigInteger),
    # Without it SQLite starts at 1 again whenever the table is empty, below the dispatcher's floor
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
    # When the lane next needs a turn; null: nothing waits, or it is closed.
    Column("next_at", BigInteger),
    # Where a scan for waiting jobs begins, by priority: none has an earlier `next_at`.
    Column("high_floor", BigInteger, nullable=False, server_default="0"),
    Column("normal_floor", BigInteger, nullable=False, server_default="0"),
    Column("low_floor", BigInteger, nullable=False, server_default="0"),
    # Its one open turn. The fence only grows: (lane, fence) identifies a turn forever.
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("turn", Text),  # offered | claimed; null: no open turn
    Column("turn_at", BigInteger),
    Column("turn_worker", Uuid),
    Column("turn_slots", SmallInteger, nullable=False, server_default="0"),  # how many calls at once it may make
    Column("served_at", BigInteger),  # when a worker last committed the end of a turn
    # Pace.
    Column("width", SmallInteger, nullable=False),  # calls at once at most
    Column("ramp", SmallInteger, nullable=False),  # calls at once now: 1, 2, 4 … width after a hold
    Column("pace", Text),  # its own, in the form of `sendq.rules.pace.written`; null: its provider's
    Column("used", Text),  # how much of it is used, in the form of `sendq.rules.pace.Pacer`; null: nothing
    Column("ready_at", BigInteger, nullable=False, server_default="0"),  # when the pace allows the next start
    Column("spacing", BigInteger, nullable=False, server_default="0"),  # least time between two modifications …
    Column("spacing_until", BigInteger, nullable=False, server_default="0"),  # … until then, unless throttled again
    Column("stretch", BigInteger, nullable=False, server_default="0"),  # learned: least time between two starts
    Column("ask_at", BigInteger, server_default="0"),  # when to ask the API for its provider; null: already asked
    # Held, or closed until the grant's owner signs in again.
    Column("held_until", BigInteger),
    Column("held_since", BigInteger),
    Column("held_rule", Text),
    Column("held_by", Text),
    Column("streak", SmallInteger, nullable=False, server_default="0"),  # holds since the last success
    Column("closed_at", BigInteger),
    Column("closed_rule", Text),
    Column(
        "suspected", Boolean, nullable=False, server_default=text("false")
    ),  # closed, but the API has not confirmed that the grant is invalid
    Column("announced_at", BigInteger),  # when the sign-in was asked for; null: not yet
    Column("check_at", BigInteger),  # when to ask the API about the grant next
    Column("checks", SmallInteger, nullable=False, server_default="0"),
    # How often since the last success the API called the grant valid while its provider refused it.
    Column("refused", SmallInteger, nullable=False, server_default="0"),
    Column("refused_jobs", Text),  # which jobs those calls were for, in the form of `sendq.rules.refused_jobs`
    Column("opened_at", BigInteger),  # last reopened; calls begun before do not close it again
    Column("gone", Boolean, nullable=False, server_default=text("false")),  # the grant no longer exists: its jobs end
    Column("time_window", Text),  # when jobs without a window may begin; null: at any time
    Column("warm_up", Text),  # a daily limit that grows (`sendq.rules.warm_up`); null: none
    Index("sendq_lane_application_idx", "application", "id"),
    Index("sendq_lane_due_idx", "application", "provider", "next_at", **_when("turn IS NULL AND next_at IS NOT NULL")),
    Index("sendq_lane_closed_idx", "check_at", **_when("closed_at IS NOT NULL")),
    Index("sendq_lane_held_idx", "held_until", **_when("held_until IS NOT NULL")),
    Index("sendq_lane_turn_idx", "turn_at", **_when("turn IS NOT NULL")),
    Index("sendq_lane_unasked_idx", "ask_at", **_when("provider = 'unknown' AND ask_at IS NOT NULL")),
)

pair = Table(
    "sendq_pair",
    metadata,
    Column("application", Text, primary_key=True),
    Column("provider", Text, primary_key=True),  # "*": the application as a whole
    # Limit of calls at once until it is proven to work: 1, 2, 4 …; null: no limit.
    Column("ramp", Integer, server_default="1"),
    Column("proven_at", BigInteger),  # a recent success; null: none yet
    Column("streak", SmallInteger, nullable=False, server_default="0"),  # holds since the last success
    Column("held_until", BigInteger),
    Column("held_since", BigInteger),
    Column("held_rule", Text),
    Column("held_by", Text),
)

attempt = Table(
    "sendq_attempt",
    metadata,
    Column("id", Uuid, primary_key=True),  # made by the worker, so that recording it twice changes nothing
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
    Column("error", Text),  # redacted and truncated; no address
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
    Column("job_id", Uuid),  # the job concerned, or whose answer caused it
    Column("batch_id", Uuid),
    Column("rule", Text),
    Column("by", Text, nullable=False),  # policy, webhook, check, or an operator's name
    Column("reason", Text),
    Column("number", Integer),  # of an act on many things: how many it changed; grows until the act ends
    Column("act", Uuid),  # a part of that act: the id of the act's own event
    Column("tag", Text),
    Column("category", Text),  # of the entries of a suppression list that an act changed; null: those for all mail
    Index("sendq_event_at_idx", "at", "id"),
    Index("sendq_event_grant_idx", "grant_id", "at", "id", **_when("grant_id IS NOT NULL")),
)

delivery = Table(
    "sendq_delivery",
    metadata,
    Column("id", Uuid, primary_key=True),  # sent along, so that receivers recognise a repeat
    Column("target", Text, nullable=False),  # as the caller passed it
    Column("receiver", Text, nullable=False),  # the service it belongs to: its targets fail together
    Column("kind", Text, nullable=False),  # sent | dead | … | bounced | … | reauth_required | batch_finished
    Column("subject", Uuid, nullable=False),  # the job, batch or lane that it is about
    Column("lane_id", Uuid, nullable=False),
    Column("sequence", BigInteger, nullable=False),  # grows with each delivery about the same subject
    Column("facts", Text, nullable=False),  # JSON, the state at that time
    # Of recipients, for receivers that may have them (JSON, encrypted like a body); null: none, or delivered.
    Column("addresses", LargeBinary),
    Column("cipher_key", Text),
    Column("state", Text, nullable=False),  # waiting | delivered | given_up
    Column("created_at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),  # a failure after this is the last
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("refusals", Integer, nullable=False, server_default="0"),  # tries that the receiver refused
    Column("tried_at", BigInteger),
    Column("done_at", BigInteger),  # delivered, or given up
    Column("error", Text),  # of the last try; no text from the receiver
    Index("sendq_delivery_waiting_idx", "receiver", "next_at", "id", **_when("state = 'waiting'")),
    Index("sendq_delivery_given_up_idx", "id", **_when("state = 'given_up'")),
    Index("sendq_delivery_subject_idx", "subject", "sequence"),
    Index("sendq_delivery_done_idx", "done_at", **_when("done_at IS NOT NULL")),
)

receiver = Table(
    "sendq_receiver",
    metadata,
    Column("name", Text, primary_key=True),
    # Since its last success: deliveries that it refused, and how often it was paused.
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

# A row of its own only for mail that Nylas reports about, so that a plain send writes none.
delivery_status = Table(
    "sendq_delivery_status",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("delivery", Text, nullable=False),  # failed_later | rejected | confirmed | delivered | bounced | complained
    Column("at", BigInteger, nullable=False),  # when it happened, by the clock of Nylas
    Column("source", Text, nullable=False),  # the notification's type
    Column("detail", Text),  # its words: redacted and truncated; no address
    Column("noted_at", BigInteger, nullable=False),
    # The send that it is about: a retry by hand begins another one.
    Column("generation", Integer, nullable=False),
    Column("message_id", Text),
    # Reported before the outcome of the send was recorded: to be applied then.
    Column("pending", Boolean, nullable=False, server_default=text("false")),
    Index("sendq_delivery_status_noted_at_idx", "delivery", "noted_at"),
    Index("sendq_delivery_status_pending_idx", "job_id", **_when("pending")),
)

recipient_status = Table(
    "sendq_recipient_status",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),  # of the address (`sendq.messages.digests`)
    Column("position", SmallInteger),  # among to, cc and bcc in this order, from 1; null: not among them
    Column("delivery", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("detail", Text),
)

notice_count = Table(
    "sendq_notice_count",
    metadata,
    Column("application", Text, primary_key=True),
    Column("provider", Text, primary_key=True),  # "": the mail is none of ours
    Column("kind", Text, primary_key=True),  # the notification's type
    Column("result", Text, primary_key=True),  # applied | repeated | earlier_send | unmatched | again | unused
    Column("shard", SmallInteger, primary_key=True),  # so that receivers do not wait for each other's commits
    Column("number", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),  # sum of the times from acceptance to the report, of those applied
)

suppression = Table(
    "sendq_suppression",
    metadata,
    Column("application", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),  # of the address (`sendq.messages.digests`)
    Column("category", Text, primary_key=True),  # of mail; "": all mail
    Column("reason", Text, nullable=False),  # bounced | complained | unsubscribed | added | imported
    Column("at", BigInteger, nullable=False),
    Column("source", Text, nullable=False),  # the notification's type, one-click, or an operator's name
    # The order in which they are listed.
    Index("sendq_suppression_at_idx", "at", "application", "category", "digest"),
)

secret = Table(
    "sendq_secret",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),  # encrypted like a body
    Column("cipher_key", Text),
)

prune_cursor = Table(
    "sendq_prune_cursor",
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
    Column("beats", BigInteger, nullable=False),  # counts up; a count that stops means a dead worker
    Column("beat_at", BigInteger, nullable=False),
    Column("silent", BigInteger, nullable=False),  # µs for which the count was seen unchanged
    Column("stale_after", BigInteger, nullable=False),  # µs of silence after which it counts as dead
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
    Column("sleeps_until", BigInteger, nullable=False),  # a commit with earlier work wakes it; 0: it is awake
    # Whether this is the ledger that the workers knew, or a restored backup (`sendq.ledger.dispatching.lineage`).
    Column("line", Uuid),  # names the ledger's history; `recover` begins a new one
    Column("renewals", BigInteger, nullable=False, server_default="0"),  # of the lease; Redis keeps a copy, the witness
    Column("renewed_at", BigInteger, nullable=False, server_default="0"),
    Column("complete_at", BigInteger, nullable=False, server_default="0"),  # the last renewal at which nothing was lost
    Column("proven_on", Text),  # the run of the server on which it was last known to be complete; null: SQLite, or new
    Column("shut_at", BigInteger),  # since when no turn is offered: it has lost something, or may have; null: not shut
    Column("shut_because", Text),  # lost | unproven; this and the following are set with `shut_at`
    Column("lost_since", BigInteger),  # the last renewal before the loss
    Column("known_until", BigInteger),  # the ledger does not know what happened after this
    Column("highest_at", BigInteger, nullable=False, server_default="0"),  # the highest time that any process has seen
    Column("unpublished_since", BigInteger),  # since when publishing to the broker fails; null: it works
    Column("unclaimed_since", BigInteger),  # since when no worker claims the turns that are offered; null: some do
    Column("failing_since", BigInteger),  # since when rounds of dispatchers fail unexpectedly; null: they do not
)

# The version table, which does not clash with an application's own `alembic_version`.
VERSION_TABLE = "sendq_version"
