"""Every setting: its meaning, unit, default and limits.

Durations are in seconds (``_s``), retention periods in days (``_days``). A field is read from ``SENDQ_<FIELD>`` and
from the usual variable names listed in its ``setting``; the first that is set and not empty wins. The table in
docs/operations.md is generated from this file (``Settings.describe``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from settings.application import US, NamedApplications, Provider
from settings.budgets import BudgetSettings
from settings.console import ConsoleSecret, HeaderName, Names, Networks
from settings.environ import IN_CHECKOUT, ROOT
from settings.outcomes import Endpoints, Hosts, Receivers, SigningSecret, TargetName, Tasks
from settings.paces import PaceSettings
from settings.values import (
    AbsolutePath,
    ApiUri,
    EncryptionKeys,
    Key,
    LedgerUrl,
    ListenAddress,
    RedisUrl,
    SentryDsn,
    TagKeys,
    UnsubscribeUrl,
)


def default_home() -> Path:
    """Where a machine without settings keeps its ledger and broker: in a checkout, or in the user's home."""
    if IN_CHECKOUT:
        return ROOT / ".run" / "sendq"
    try:
        return Path.home() / ".local" / "state" / "sendq"
    except RuntimeError:  # a user without an entry in the system's list, and no HOME
        return Path("/var/lib/sendq")


def setting(default: Any, meaning: str, *usual: str, unit: str = "", only: bool = False, **limits: Any) -> Any:
    """A field: its meaning, its unit, and further variables besides ``SENDQ_<FIELD>`` (``only``: instead of it)."""
    return Field(
        default, description=meaning, json_schema_extra={"usual": [*usual], "unit": unit, "only": only}, **limits
    )


class Fields(BaseModel):
    """All settings of a process, as they are set."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    # The Nylas application called `default`, and the others.
    nylas_api_key: Key | None = setting(None, "API key of the default application", "NYLAS_API_KEY", only=True)
    nylas_api_key_file: AbsolutePath | None = setting(
        None, "file that holds that key; read again when needed, so that a new key needs no restart",
        "NYLAS_API_KEY_FILE", only=True,
    )  # fmt: skip
    nylas_api_uri: ApiUri = setting(
        US, "base URL of the API, which depends on the application's data region (EU: https://api.eu.nylas.com)",
        "NYLAS_API_URI", only=True,
    )  # fmt: skip
    nylas_client_id: str | None = setting(
        None, "client id of the application; needed for the hosted sign-in address", "NYLAS_CLIENT_ID", only=True,
    )  # fmt: skip
    nylas_webhook_secret: Key | None = setting(
        None, "secret that Nylas signs the application's webhooks with", "NYLAS_WEBHOOK_SECRET", only=True,
    )  # fmt: skip
    nylas_provider: Provider | None = setting(
        None, "provider of all grants of the application, if they have the same one: google, microsoft, ews, imap, "
        "icloud, yahoo or nylas (default: the provider given at enqueue; otherwise Nylas is asked once per grant)",
        "NYLAS_PROVIDER", only=True,
    )  # fmt: skip
    named_applications: NamedApplications = setting(
        {}, "further applications: a JSON object of name -> {api_key or api_key_file, api_uri, client_id, "
        "webhook_secret, provider}; only the key is required", "SENDQ_APPLICATIONS", only=True,
    )  # fmt: skip

    # Ledger, broker, files.
    database_url: LedgerUrl | None = setting(
        None, "the ledger: PostgreSQL 14 or later, or a SQLite file (default: a file in SENDQ_HOME)", "DATABASE_URL",
    )  # fmt: skip
    redis_url: RedisUrl | None = setting(
        None, "the broker: Redis 6.2 or later, or Valkey, that never evicts keys, or its sentinels (default: an "
        "embedded one in SENDQ_HOME)",
        "REDIS_URL",
    )  # fmt: skip
    home: AbsolutePath = setting(
        default_home(),
        "directory of the embedded ledger and broker (default: ~/.local/state/sendq, or .run/sendq in a checkout)",
    )
    run_dir: AbsolutePath | None = setting(
        None, "directory of the workers' heartbeat files, which `sendq health --live` reads (default: a directory of "
        "this user in TMPDIR)",
    )  # fmt: skip

    # Encryption and retention.
    encryption_keys: EncryptionKeys | None = setting(
        None, "keys that encrypt message contents in the ledger: name:base64, comma-separated; the first encrypts, "
        "all of them decrypt (default: no encryption). Web applications need them too",
    )  # fmt: skip
    encryption_keys_file: AbsolutePath | None = setting(None, "file that holds those keys; read at start")
    accept_unencrypted: bool = setting(
        False, "with encryption keys: whether jobs that are stored unencrypted are sent too, and encrypted by `sendq "
        "rekey`. Only while encryption is being introduced: anyone who can write to the ledger can store such jobs",
    )  # fmt: skip

    keep_bodies_days: float = setting(
        1.0, "how long to keep the bodies of jobs that were sent, cancelled or expired. A dead letter keeps its body "
        "for a retry", unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_sent_days: float = setting(30.0, "how long to keep sent jobs and their attempts", unit="days", ge=0, le=36500)
    keep_cancelled_days: float = setting(30.0, "how long to keep cancelled jobs", unit="days", ge=0, le=36500)
    keep_expired_days: float = setting(90.0, "how long to keep expired jobs", unit="days", ge=0, le=36500)
    keep_dead_days: float = setting(
        90.0, "how long to keep dead letters, and so how long they can be retried", unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_keys_days: float = setting(
        365.0, "how long to remember a job's key after its first use, even when the job has been deleted: within this "
        "time a repeated call creates no second job", unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_events_days: float = setting(
        180.0, "how long to keep events: what happened to grants, and what operators did", unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_deliveries_days: float = setting(
        30.0, "how long to keep outcomes that were delivered or given up, for `sendq deliveries`",
        unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_webhooks_days: float = setting(
        7.0, "how long to remember webhook notifications that were processed, so that a repeat changes nothing; more "
        "than a day, because older notifications are rejected anyway", unit="days", gt=1, le=36500,
    )  # fmt: skip

    # Concurrency and pace.
    concurrency: int = setting(
        100, "call slots of a worker process: calls to the API in flight at once", unit="calls", ge=1, le=2000,
    )  # fmt: skip
    threads: int = setting(
        8, "threads that receive bundles of turns from the broker and claim them (Celery's -c). API calls do not "
        "occupy them", unit="threads", ge=1, le=100,
    )  # fmt: skip
    slow_after_s: float = setting(
        5.0, "a call that takes longer gives up its slot and counts as slow (when slots are scarce, also a call much "
        "slower than usual); less than SENDQ_READ_TIMEOUT_S", unit="s", gt=0,
    )  # fmt: skip
    slow_allowance: int | None = setting(
        None, "how many calls of one provider may be slow in a process (default: four times SENDQ_CONCURRENCY)",
        unit="calls", ge=1,
    )  # fmt: skip
    paces: PaceSettings = setting(
        (), "your own rate limits, a JSON list; the most specific entry wins: [{\"provider\": \"google\", \"limits\": "
        "{\"minute\": 15000}}, {\"grant\": \"…\", \"width\": 1, \"daily\": 500}]. limits: units per window of the "
        "provider; width: calls at once; daily: messages in 24 hours, per account",
    )  # fmt: skip
    budgets: BudgetSettings = setting(
        (), "limits on how many sends of an application, or of one of its tags, may begin per minute, hour or day: a "
        'JSON object like {"shop": "500/h", "shop campaign=may": "200/d"}; units are min, h and d, in windows that '
        "follow UTC. Further sends wait for the next window. Set the same for all workers (default: no budgets)",
    )  # fmt: skip
    turn_s: float = setting(
        2.0, "a turn (one run of an account's jobs in a worker) starts no new job after about this long; less than "
        "SENDQ_UNCLAIMED_AFTER_S", unit="s", gt=0, le=60,
    )  # fmt: skip
    turn_jobs: int = setting(20, "how many jobs a turn loads at most", unit="jobs", ge=1, le=1000)
    bundle_turns: int = setting(
        50, "how many turns a Celery message (bundle) carries at most", unit="turns", ge=1, le=1000
    )
    local_turns: bool = setting(
        True, "whether the leader starts turns in its own process while it has free call slots and no more than its "
        "share of all calls. false: every turn goes through the broker",
    )  # fmt: skip

    # The HTTP calls.
    connect_timeout_s: float = setting(10.0, "timeout for opening a connection to the API", unit="s", gt=0, le=60)
    read_timeout_s: float = setting(
        150.0, "timeout for an answer. Nylas asks for 150 s (a self-hosted Exchange takes 2 minutes); with less, "
        "answers to messages that did go out are lost", unit="s", gt=0, le=600,
    )  # fmt: skip
    key_max_age_s: float = setting(
        2700.0, "an Idempotency-Key older than this is not used again. Together with SENDQ_READ_TIMEOUT_S it must "
        "stay below the hour for which Nylas remembers keys", unit="s", gt=0, lt=3600,
    )  # fmt: skip
    index_lag_s: float = setting(
        900.0, "how long a sent message may take to appear in a search of its mailbox. A send in doubt that is not "
        "found before then may still have gone out", unit="s", ge=0, le=86_400,
    )  # fmt: skip
    in_doubt: Literal["wait", "resend", "dead"] = setting(
        "wait", "what to do with a send in doubt that was not found within SENDQ_LOOK_FOR_S: wait (for a person), "
        "resend (at the risk of a second copy) or dead (make it a dead letter); `in_doubt=` of a message overrides "
        "this",
    )  # fmt: skip
    look_for_s: float = setting(
        21_600.0, "how long to search for a send in doubt. The time starts when not finding it begins to mean "
        "something: an hour after its idempotency key was made, or SENDQ_INDEX_LAG_S after its last request, whichever "
        "is later. At least three searches must have been answered", unit="s", ge=0,
    )  # fmt: skip
    metadata_key: Literal["key1", "key2", "key3", "key4", "key5"] = setting(
        "key1", "metadata key that carries the job's id; your messages cannot use it (Nylas indexes key1 to key5)",
    )  # fmt: skip

    ask_providers: bool = setting(
        True, "ask Nylas once for the provider of each grant that was enqueued without one; the provider decides the "
        "pace",
    )  # fmt: skip
    ask_delivery_s: float = setting(
        600.0, "how often to ask Nylas what became of Agent Accounts' mail (its send events), of applications without "
        "a webhook; 0: never. With webhooks it is known at once, and Nylas prefers them", unit="s", ge=0, le=86_400,
    )  # fmt: skip
    announce_after_s: float = setting(
        30.0, "how long after a lane is closed its owner is asked to sign in again. If many grants fail alike in "
        "that time, the cause is the application, and no owner is asked", unit="s", ge=0,
    )  # fmt: skip
    escalate_grants: int = setting(
        10, "if this many grants of one provider are closed by the same rule within SENDQ_ESCALATE_WINDOW_S, the "
        "provider is held instead, and no owner is asked to sign in again; if this many calls in a row, of more than "
        "one grant, meet answers that are not the API's, the application is held", unit="grants", ge=2,
    )  # fmt: skip
    escalate_window_s: float = setting(
        300.0, "the time window for SENDQ_ESCALATE_GRANTS; more than SENDQ_ANNOUNCE_AFTER_S", unit="s", gt=0,
    )  # fmt: skip
    escalate_hold_s: float = setting(900.0, "how long that hold lasts before one call is tried", unit="s", gt=0)
    bounce_hold_s: float | None = setting(
        None, "hold a grant for this long if too much of its mail bounced within an hour: more than SENDQ_BOUNCE_RATE "
        "of at least SENDQ_BOUNCE_LEAST mails. Needs Nylas's webhooks (default: no such hold)",
        unit="s", gt=0, le=2_592_000,
    )  # fmt: skip
    bounce_rate: float = setting(
        0.05, "share of the mail that a grant sent within an hour, above which SENDQ_BOUNCE_HOLD_S applies",
        unit="(0 to 1)", ge=0, lt=1,
    )  # fmt: skip
    bounce_least: int = setting(
        50, "no such hold of a grant that sent fewer mails within the hour: a few old addresses would decide",
        unit="mails", ge=1,
    )  # fmt: skip
    reauth_url: str | None = setting(
        None, "your page where an owner signs in again; {grant_id} and {application} are filled in (default: Nylas's "
        "hosted authentication, if the client id is known)",
    )  # fmt: skip
    unsubscribe_url: UnsubscribeUrl | None = setting(
        None, "the https address of your unsubscribe endpoint, for messages with `unsubscribe` that `sendq merge` or "
        "the enqueue task enqueues; a message's own url overrides this",
    )  # fmt: skip
    policy_file: AbsolutePath | None = setting(
        None, "rows of the error policy that take precedence over the built-in table (TOML; see `sendq policy check`)",
    )  # fmt: skip

    # Heartbeats, leadership, stopping.
    beat_interval_s: float = setting(2.0, "interval of a worker's heartbeats", unit="s", gt=0)
    stale_after_s: float = setting(
        8.0, "a worker without a heartbeat for this long is declared dead, each by its own setting; more than three "
        "times SENDQ_BEAT_INTERVAL_S", unit="s", gt=0,
    )  # fmt: skip
    unclaimed_after_s: float = setting(
        10.0, "a turn that no worker has claimed after this long is dispatched again; more than SENDQ_TURN_S, because "
        "a bundle may wait behind another", unit="s", gt=0,
    )  # fmt: skip
    lease_s: float = setting(
        4.5, "lease of the leader. When it dies, another worker takes over after at most this time plus SENDQ_POLL_S",
        unit="s", gt=0,
    )  # fmt: skip
    poll_s: float = setting(
        0.2, "how often the other workers check whether the lease is free; less than a third of SENDQ_LEASE_S",
        unit="s", gt=0,
    )  # fmt: skip
    grace_s: float = setting(
        30.0, "how long a worker takes to stop after SIGTERM. Calls still in flight 3 s before the end are recorded "
        "as in doubt. Give the supervisor a longer timeout than this", unit="s", gt=5,
    )  # fmt: skip

    # Outcomes, delivered to the web applications (`on_outcome`).
    outcome_broker_url: RedisUrl | None = setting(
        None, "broker (Redis) of the Celery application whose tasks receive outcomes",
    )  # fmt: skip
    outcome_endpoints: Endpoints = setting(
        {}, "webhooks that `on_outcome` may name (webhook:NAME): a JSON object of name -> {url, secret}; an endpoint "
        "without a secret uses SENDQ_OUTCOME_SECRET",
    )  # fmt: skip
    outcome_hosts: Hosts = setting(
        (), "hosts allowed in the https:// addresses of `on_outcome`, comma-separated; a port other than 443 is part "
        "of the host. No other host is called, whatever an application enqueues",
    )  # fmt: skip
    outcome_secret: SigningSecret | None = setting(
        None, "secret that signs outcome webhooks: whsec_ and the base64 of 24 to 64 bytes",
    )  # fmt: skip
    outcome_tasks: Tasks = setting(
        (), "tasks that `on_outcome` may name, comma-separated TASK@QUEUE; both may end with *, and without @ any "
        "queue is allowed. Names of sendq and Celery themselves are refused in any case (default: none)",
    )  # fmt: skip
    outcome_timeout_s: float = setting(10.0, "timeout for a receiver of outcomes", unit="s", gt=0, le=60)
    on_reauth: TargetName | None = setting(
        None, "receiver to notify of every grant whose owner must sign in again, in addition to those that its "
        "waiting jobs name; written like `on_outcome`",
    )  # fmt: skip
    outcome_delivered: bool = setting(
        False, "also send the outcome `delivered` for each mail of which Nylas reports it (`sendq webhooks`)",
    )  # fmt: skip
    outcome_addresses: Receivers = setting(
        (), "receivers whose outcomes about mail name recipients by address too, not only by place and digest: "
        "webhook:NAME, https://host, celery (all tasks: through their broker), comma-separated. The ledger has the "
        "addresses until they are delivered, encrypted like bodies",
    )  # fmt: skip
    enqueue_task: bool = setting(
        False, "let other Celery applications enqueue by task name (`sendq.enqueue`). Message bodies then pass "
        "through the broker",
    )  # fmt: skip

    # Logs, Sentry, metrics.
    log_format: Literal["json", "console"] = setting(
        "json", "json: one JSON object per line; console: columns for people",
    )  # fmt: skip
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting("INFO", "lowest level that is logged")
    task_events: bool = setting(
        False, "report every attempt as Celery task events, for Flower (same as the worker's -E)",
    )  # fmt: skip
    sentry_dsn: SentryDsn | None = setting(
        None, "Sentry project that errors and alerts are reported to (default: none)", "SENTRY_DSN",
    )  # fmt: skip
    sentry_traces_sample_rate: float = setting(
        0.0, "share of attempts that are sent to Sentry as traces: time in the queue, and the call",
        "SENTRY_TRACES_SAMPLE_RATE", unit="(0 to 1)", ge=0, le=1,
    )  # fmt: skip
    metrics_address: ListenAddress | None = setting(
        None, "host:port where a worker serves Prometheus metrics, without a login; port 0 picks a free one and logs "
        "it (default: no metrics)",
    )  # fmt: skip
    metrics_tags: TagKeys = setting(
        (), "keys of tags by whose values ended jobs are counted (`sendq_tagged_jobs_ended_total`), comma-separated. "
        "Name only those with few values: of each, 100 are counted apart, and the rest as `other` (default: none)",
    )  # fmt: skip

    # The HTTP API.
    api_tokens_file: AbsolutePath | None = setting(
        None, "file with the tokens of the HTTP API, as digests; `sendq token create` writes it",
    )  # fmt: skip
    api_rate: float = setting(
        100.0, "requests that one token may make to one process of the HTTP API, with bursts of twice as many",
        unit="requests/s", gt=0, le=100_000,
    )  # fmt: skip
    api_trusted_proxies: Networks = setting(
        (), "addresses or networks of the proxies in front of the HTTP API, comma-separated; only their headers are "
        "believed",
    )  # fmt: skip

    # The console.
    console_passwords_file: AbsolutePath | None = setting(
        None, "file with the people who may sign in to the console, and their roles; `sendq password` writes its lines",
    )  # fmt: skip
    console_proxy_header: HeaderName | None = setting(
        None, "header in which a proxy in front of the console names the person, instead of a password file: the "
        "proxy must remove it from what clients send",
    )  # fmt: skip
    console_trusted_proxies: Networks = setting(
        (), "addresses or networks of the proxies in front of the console, comma-separated; only their headers are "
        "believed",
    )  # fmt: skip
    console_operators: Names = setting(
        (), "people that the proxy names and who may act, comma-separated; everybody else may only read",
    )  # fmt: skip
    console_secret: ConsoleSecret | None = setting(
        None, "secret that signs the console's sessions and forms, at least 32 characters; needed if several processes "
        "serve one console (default: a new one at each start, which signs everybody out)",
    )  # fmt: skip
