"""The ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sendq_after",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("after_id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("depth", sa.SmallInteger(), nullable=False),
        sa.Column("delay", sa.BigInteger(), nullable=False),
        sa.Column("unless", sa.Text(), nullable=True),
        sa.Column("replies", sa.Boolean(), nullable=False),
        sa.Column("lifetime", sa.BigInteger(), nullable=True),
        sa.Column("start_at", sa.BigInteger(), nullable=True),
        sa.Column("lane_id", sa.Uuid(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("check_at", sa.BigInteger(), nullable=True),
        sa.Column("checks", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.Column("replied_at", sa.BigInteger(), nullable=True),
        sa.Column("bounced_at", sa.BigInteger(), nullable=True),
        sa.Column("released_at", sa.BigInteger(), nullable=True),
        sa.Column("written_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("sendq_after_pkey")),
    )
    op.create_index("sendq_after_after_id_idx", "sendq_after", ["after_id"], unique=False)
    op.create_index(
        "sendq_after_check_idx",
        "sendq_after",
        ["check_at", "job_id"],
        unique=False,
        postgresql_where=sa.text(
            "check_at IS NOT NULL AND (unless IS NULL OR unless = 'bounced' OR replied_at IS NOT NULL"
            " OR bounced_at IS NOT NULL OR message_id IS NULL)"
        ),
        sqlite_where=sa.text(
            "check_at IS NOT NULL AND (unless IS NULL OR unless = 'bounced' OR replied_at IS NOT NULL"
            " OR bounced_at IS NOT NULL OR message_id IS NULL)"
        ),
    )
    op.create_index(
        "sendq_after_lane_idx",
        "sendq_after",
        ["lane_id", "check_at", "job_id"],
        unique=False,
        postgresql_where=sa.text(
            "check_at IS NOT NULL AND unless <> 'bounced' AND replied_at IS NULL AND bounced_at IS NULL"
            " AND message_id IS NOT NULL"
        ),
        sqlite_where=sa.text(
            "check_at IS NOT NULL AND unless <> 'bounced' AND replied_at IS NULL AND bounced_at IS NULL"
            " AND message_id IS NOT NULL"
        ),
    )
    op.create_index(
        "sendq_after_read_idx",
        "sendq_after",
        ["check_at", "job_id"],
        unique=False,
        postgresql_where=sa.text(
            "check_at IS NOT NULL AND unless <> 'bounced' AND replied_at IS NULL AND bounced_at IS NULL"
            " AND message_id IS NOT NULL"
        ),
        sqlite_where=sa.text(
            "check_at IS NOT NULL AND unless <> 'bounced' AND replied_at IS NULL AND bounced_at IS NULL"
            " AND message_id IS NOT NULL"
        ),
    )
    op.create_index(
        "sendq_after_released_idx",
        "sendq_after",
        ["check_at", "job_id"],
        unique=False,
        postgresql_where=sa.text("check_at IS NOT NULL AND stage = 'released'"),
        sqlite_where=sa.text("check_at IS NOT NULL AND stage = 'released'"),
    )
    op.create_index(
        "sendq_after_waiting_idx",
        "sendq_after",
        ["job_id"],
        unique=False,
        postgresql_where=sa.text("stage = 'waiting'"),
        sqlite_where=sa.text("stage = 'waiting'"),
    )
    op.create_table(
        "sendq_attempt",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("sent", sa.Text(), nullable=False),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("replayed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_attempt_pkey")),
    )
    op.create_index("sendq_attempt_job_id_idx", "sendq_attempt", ["job_id"], unique=False)
    op.create_table(
        "sendq_batch",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("lane_id", sa.Uuid(), nullable=True),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("hard", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("fields", sa.SmallInteger(), nullable=False),
        sa.Column("walk", sa.Text(), nullable=True),
        sa.Column("listings", sa.Integer(), server_default="0", nullable=False),
        sa.Column("undoable", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("undoes", sa.Uuid(), nullable=True),
        sa.Column("open", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("cipher_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("on_outcome", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("making", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("held_at", sa.BigInteger(), nullable=True),
        sa.Column("needs_approval", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("cancel_at", sa.BigInteger(), nullable=True),
        sa.Column("cancelled", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("time_window", sa.Text(), nullable=True),
        sa.Column("spread", sa.BigInteger(), nullable=True),
        sa.Column("spread_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_batch_pkey")),
    )
    op.create_index(
        "sendq_batch_cancel_idx",
        "sendq_batch",
        ["id"],
        unique=False,
        postgresql_where=sa.text("cancel_at IS NOT NULL AND NOT cancelled"),
        sqlite_where=sa.text("cancel_at IS NOT NULL AND NOT cancelled"),
    )
    op.create_index(
        "sendq_batch_finished_at_idx",
        "sendq_batch",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "sendq_batch_making_idx",
        "sendq_batch",
        ["id"],
        unique=False,
        postgresql_where=sa.text("making"),
        sqlite_where=sa.text("making"),
    )
    op.create_index(
        "sendq_batch_undoes_idx",
        "sendq_batch",
        ["undoes"],
        unique=False,
        postgresql_where=sa.text("undoes IS NOT NULL"),
        sqlite_where=sa.text("undoes IS NOT NULL"),
    )
    op.create_table(
        "sendq_batch_change",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("summed", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_batch_change_pkey")),
    )
    op.create_index("sendq_batch_change_batch_id_idx", "sendq_batch_change", ["batch_id"], unique=False)
    op.create_index(
        "sendq_batch_change_news_idx",
        "sendq_batch_change",
        ["id"],
        unique=False,
        postgresql_where=sa.text("NOT summed"),
        sqlite_where=sa.text("NOT summed"),
    )
    op.create_table(
        "sendq_chunk",
        sa.Column("content_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("cipher_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("content_id", "position", name=op.f("sendq_chunk_pkey")),
    )
    op.create_table(
        "sendq_content",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_content_pkey")),
    )
    op.create_index("sendq_content_digest_idx", "sendq_content", ["digest"], unique=False)
    op.create_table(
        "sendq_delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Uuid(), nullable=False),
        sa.Column("lane_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("addresses", sa.LargeBinary(), nullable=True),
        sa.Column("cipher_key", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("refusals", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tried_at", sa.BigInteger(), nullable=True),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_delivery_pkey")),
    )
    op.create_index(
        "sendq_delivery_done_idx",
        "sendq_delivery",
        ["done_at"],
        unique=False,
        postgresql_where=sa.text("done_at IS NOT NULL"),
        sqlite_where=sa.text("done_at IS NOT NULL"),
    )
    op.create_index(
        "sendq_delivery_given_up_idx",
        "sendq_delivery",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'given_up'"),
        sqlite_where=sa.text("state = 'given_up'"),
    )
    op.create_index("sendq_delivery_subject_idx", "sendq_delivery", ["subject", "sequence"], unique=False)
    op.create_index(
        "sendq_delivery_waiting_idx",
        "sendq_delivery",
        ["receiver", "next_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "sendq_delivery_status",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("delivery", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("pending", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("sendq_delivery_status_pkey")),
    )
    op.create_index(
        "sendq_delivery_status_noted_at_idx", "sendq_delivery_status", ["delivery", "noted_at"], unique=False
    )
    op.create_index(
        "sendq_delivery_status_pending_idx",
        "sendq_delivery_status",
        ["job_id"],
        unique=False,
        postgresql_where=sa.text("pending"),
        sqlite_where=sa.text("pending"),
    )
    op.create_table(
        "sendq_event",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("grant_id", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("act", sa.Uuid(), nullable=True),
        sa.Column("tag", sa.Text(), nullable=True),
        sa.Column("category", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_event_pkey")),
    )
    op.create_index("sendq_event_at_idx", "sendq_event", ["at", "id"], unique=False)
    op.create_index(
        "sendq_event_grant_idx",
        "sendq_event",
        ["grant_id", "at", "id"],
        unique=False,
        postgresql_where=sa.text("grant_id IS NOT NULL"),
        sqlite_where=sa.text("grant_id IS NOT NULL"),
    )
    op.create_table(
        "sendq_found",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("seal", sa.LargeBinary(), nullable=True),
        sa.Column("seal_key", sa.Text(), nullable=True),
        sa.Column("before", sa.LargeBinary(), nullable=True),
        sa.Column("before_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", "object_id", name=op.f("sendq_found_pkey")),
    )
    op.create_table(
        "sendq_snapshot",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("before", sa.LargeBinary(), nullable=False),
        sa.Column("before_key", sa.Text(), nullable=True),
        sa.Column("after", sa.LargeBinary(), nullable=True),
        sa.Column("after_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("sendq_snapshot_pkey")),
    )
    op.create_table(
        "sendq_job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("lane_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("form", sa.Text(), nullable=True),
        sa.Column("object_id", sa.Text(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("resume_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("approve_by", sa.BigInteger(), nullable=True),
        sa.Column("approved_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("deaths", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("conflicts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("content_version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("key_at", sa.BigInteger(), nullable=True),
        sa.Column("doubt_at", sa.BigInteger(), nullable=True),
        sa.Column("in_doubt", sa.Text(), nullable=True),
        sa.Column("refused_at", sa.BigInteger(), nullable=True),
        sa.Column("look_at", sa.BigInteger(), nullable=True),
        sa.Column("looks", sa.SmallInteger(), nullable=True),
        sa.Column("misses", sa.SmallInteger(), nullable=True),
        sa.Column("seen", sa.Text(), nullable=True),
        sa.Column("turn", sa.BigInteger(), nullable=True),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("on_outcome", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("seal", sa.LargeBinary(), nullable=True),
        sa.Column("seal_key", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("time_window", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_job_pkey")),
    )
    op.create_index(
        "sendq_job_batch_approval_idx",
        "sendq_job",
        ["batch_id"],
        unique=False,
        postgresql_where=sa.text(
            "state = 'queued' AND approve_by IS NOT NULL AND approved_at IS NULL AND batch_id IS NOT NULL"
        ),
        sqlite_where=sa.text(
            "state = 'queued' AND approve_by IS NOT NULL AND approved_at IS NULL AND batch_id IS NOT NULL"
        ),
    )
    op.create_index(
        "sendq_job_approval_idx",
        "sendq_job",
        ["approve_by", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND approve_by IS NOT NULL AND approved_at IS NULL"),
        sqlite_where=sa.text("state = 'queued' AND approve_by IS NOT NULL AND approved_at IS NULL"),
    )
    op.create_index(
        "sendq_job_batch_dead_idx",
        "sendq_job",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL AND state = 'dead'"),
        sqlite_where=sa.text("batch_id IS NOT NULL AND state = 'dead'"),
    )
    op.create_index(
        "sendq_job_batch_idx",
        "sendq_job",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "sendq_job_begun_idx",
        "sendq_job",
        ["lane_id"],
        unique=False,
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    )
    op.create_index(
        "sendq_job_dead_idx",
        "sendq_job",
        ["rule", "finished_at", "id", "lane_id"],
        unique=False,
        postgresql_where=sa.text("state = 'dead'"),
        sqlite_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "sendq_job_doubt_idx",
        "sendq_job",
        ["lane_id"],
        unique=False,
        postgresql_where=sa.text("state = 'in_doubt'"),
        sqlite_where=sa.text("state = 'in_doubt'"),
    )
    op.create_index(
        "sendq_job_expiry_idx",
        "sendq_job",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
        sqlite_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "sendq_job_finished_idx",
        "sendq_job",
        ["state", "finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL"),
        sqlite_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "sendq_job_look_idx",
        "sendq_job",
        ["look_at"],
        unique=False,
        postgresql_where=sa.text("state = 'in_doubt'"),
        sqlite_where=sa.text("state = 'in_doubt'"),
    )
    op.create_index(
        "sendq_job_message_idx",
        "sendq_job",
        ["message_id"],
        unique=False,
        postgresql_where=sa.text("message_id IS NOT NULL"),
        sqlite_where=sa.text("message_id IS NOT NULL"),
    )
    op.create_index(
        "sendq_job_object_idx",
        "sendq_job",
        ["lane_id", "object_id"],
        unique=False,
        postgresql_where=sa.text("object_id IS NOT NULL"),
        sqlite_where=sa.text("object_id IS NOT NULL"),
    )
    op.create_index(
        "sendq_job_open_key_idx",
        "sendq_job",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND doubt_at IS NOT NULL"),
        sqlite_where=sa.text("state = 'queued' AND doubt_at IS NOT NULL"),
    )
    op.create_index(
        "sendq_job_over_budget_idx",
        "sendq_job",
        ["next_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND rule = 'over_budget'"),
        sqlite_where=sa.text("state = 'queued' AND rule = 'over_budget'"),
    )
    op.create_index(
        "sendq_job_outside_idx",
        "sendq_job",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND rule = 'outside_window'"),
        sqlite_where=sa.text("state = 'queued' AND rule = 'outside_window'"),
    )
    op.create_index(
        "sendq_job_waiting_idx",
        "sendq_job",
        ["lane_id", "priority", "next_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_table(
        "sendq_job_tag",
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("tag", "job_id", name=op.f("sendq_job_tag_pkey")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sendq_key",
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("cipher_key", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("application", "key", name=op.f("sendq_key_pkey")),
    )
    op.create_index("sendq_key_created_at_idx", "sendq_key", ["created_at"], unique=False)
    op.create_table(
        "sendq_lane",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("high_floor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("normal_floor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("low_floor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("turn", sa.Text(), nullable=True),
        sa.Column("turn_at", sa.BigInteger(), nullable=True),
        sa.Column("turn_worker", sa.Uuid(), nullable=True),
        sa.Column("turn_slots", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("served_at", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.SmallInteger(), nullable=False),
        sa.Column("ramp", sa.SmallInteger(), nullable=False),
        sa.Column("pace", sa.Text(), nullable=True),
        sa.Column("used", sa.Text(), nullable=True),
        sa.Column("ready_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("spacing", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("spacing_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stretch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ask_at", sa.BigInteger(), server_default="0", nullable=True),
        sa.Column("held_until", sa.BigInteger(), nullable=True),
        sa.Column("held_since", sa.BigInteger(), nullable=True),
        sa.Column("held_rule", sa.Text(), nullable=True),
        sa.Column("held_by", sa.Text(), nullable=True),
        sa.Column("streak", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_rule", sa.Text(), nullable=True),
        sa.Column("suspected", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("announced_at", sa.BigInteger(), nullable=True),
        sa.Column("check_at", sa.BigInteger(), nullable=True),
        sa.Column("checks", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("refused", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("refused_jobs", sa.Text(), nullable=True),
        sa.Column("opened_at", sa.BigInteger(), nullable=True),
        sa.Column("gone", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("time_window", sa.Text(), nullable=True),
        sa.Column("warm_up", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_lane_pkey")),
    )
    op.create_index(
        "sendq_lane_application_idx",
        "sendq_lane",
        ["application", "id"],
        unique=False,
    )
    op.create_index(
        "sendq_lane_closed_idx",
        "sendq_lane",
        ["check_at"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NOT NULL"),
        sqlite_where=sa.text("closed_at IS NOT NULL"),
    )
    op.create_index(
        "sendq_lane_held_idx",
        "sendq_lane",
        ["held_until"],
        unique=False,
        postgresql_where=sa.text("held_until IS NOT NULL"),
        sqlite_where=sa.text("held_until IS NOT NULL"),
    )
    op.create_index(
        "sendq_lane_due_idx",
        "sendq_lane",
        ["application", "provider", "next_at"],
        unique=False,
        postgresql_where=sa.text("turn IS NULL AND next_at IS NOT NULL"),
        sqlite_where=sa.text("turn IS NULL AND next_at IS NOT NULL"),
    )
    op.create_index(
        "sendq_lane_turn_idx",
        "sendq_lane",
        ["turn_at"],
        unique=False,
        postgresql_where=sa.text("turn IS NOT NULL"),
        sqlite_where=sa.text("turn IS NOT NULL"),
    )
    op.create_index(
        "sendq_lane_unasked_idx",
        "sendq_lane",
        ["ask_at"],
        unique=False,
        postgresql_where=sa.text("provider = 'unknown' AND ask_at IS NOT NULL"),
        sqlite_where=sa.text("provider = 'unknown' AND ask_at IS NOT NULL"),
    )
    op.create_table(
        "sendq_leader",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("sleeps_until", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.Uuid(), nullable=True),
        sa.Column("renewals", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("renewed_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("complete_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("proven_on", sa.Text(), nullable=True),
        sa.Column("shut_at", sa.BigInteger(), nullable=True),
        sa.Column("shut_because", sa.Text(), nullable=True),
        sa.Column("lost_since", sa.BigInteger(), nullable=True),
        sa.Column("known_until", sa.BigInteger(), nullable=True),
        sa.Column("highest_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unpublished_since", sa.BigInteger(), nullable=True),
        sa.Column("unclaimed_since", sa.BigInteger(), nullable=True),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("sendq_leader_pkey")),
    )
    op.create_table(
        "sendq_notice_count",
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "application", "provider", "kind", "result", "shard", name=op.f("sendq_notice_count_pkey")
        ),
    )
    op.create_table(
        "sendq_pair",
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("ramp", sa.Integer(), server_default="1", nullable=True),
        sa.Column("proven_at", sa.BigInteger(), nullable=True),
        sa.Column("streak", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("held_until", sa.BigInteger(), nullable=True),
        sa.Column("held_since", sa.BigInteger(), nullable=True),
        sa.Column("held_rule", sa.Text(), nullable=True),
        sa.Column("held_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("application", "provider", name=op.f("sendq_pair_pkey")),
    )
    op.create_table(
        "sendq_payload",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=True),
        sa.Column("cipher_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("sendq_payload_pkey")),
    )
    op.create_table(
        "sendq_piece",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("content_id", sa.Uuid(), nullable=False),
        sa.Column("after", sa.LargeBinary(), nullable=False),
        sa.Column("cipher_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("sendq_piece_pkey")),
    )
    op.create_index("sendq_piece_content_id_idx", "sendq_piece", ["content_id"], unique=False)
    op.create_table(
        "sendq_prune_cursor",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("sendq_prune_cursor_pkey")),
    )
    op.create_table(
        "sendq_receiver",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("holds", sa.Integer(), nullable=False),
        sa.Column("held_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("sendq_receiver_pkey")),
    )
    op.create_table(
        "sendq_recipient_status",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=True),
        sa.Column("delivery", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "digest", name=op.f("sendq_recipient_status_pkey")),
    )
    op.create_table(
        "sendq_secret",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("cipher_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("sendq_secret_pkey")),
    )
    op.create_table(
        "sendq_suppression",
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("application", "digest", "category", name=op.f("sendq_suppression_pkey")),
    )
    op.create_index(
        "sendq_suppression_at_idx", "sendq_suppression", ["at", "application", "category", "digest"], unique=False
    )
    op.create_table(
        "sendq_budget",
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("per", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=False),
        sa.Column("window_at", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("over_at", sa.BigInteger(), nullable=True),
        sa.Column("announced_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("application", "tag", "per", name=op.f("sendq_budget_pkey")),
    )
    op.create_table(
        "sendq_tag_hold",
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("held_until", sa.BigInteger(), nullable=False),
        sa.Column("held_since", sa.BigInteger(), nullable=False),
        sa.Column("held_by", sa.Text(), nullable=False),
        sa.Column("brought_back_to", sa.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("application", "tag", name=op.f("sendq_tag_hold_pkey")),
    )
    op.create_table(
        "sendq_wake",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("lane_id", sa.Uuid(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("high_at", sa.BigInteger(), nullable=True),
        sa.Column("normal_at", sa.BigInteger(), nullable=True),
        sa.Column("low_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_wake_pkey")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sendq_webhook",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_webhook_pkey")),
    )
    op.create_index("sendq_webhook_at_idx", "sendq_webhook", ["at"], unique=False)
    op.create_table(
        "sendq_worker",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("silent", sa.BigInteger(), nullable=False),
        sa.Column("stale_after", sa.BigInteger(), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("stopping", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("sendq_worker_pkey")),
    )
    op.execute(
        "INSERT INTO sendq_leader (name, holder, fence, expires_at, sleeps_until) VALUES ('dispatcher', NULL, 0, 0, 0)"
    )
