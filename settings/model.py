"""Every setting: its meaning, unit, default, and what it must exceed.

Durations are seconds (``_s``) or, of what is kept, days (``_days``). A field is read from ``SENDQ_<FIELD>`` and from
the usual names that ``setting`` lists after it; the first that is set and not empty wins. The table in the
documentation is made from this file (``describe``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import URL

from sendq.clock import SECOND
from sendq.errors import Problem
from sendq.rules.paces import Paces
from sendq.rules.preflight import CLOCK_TOLERANCE
from sendq.vault import Vault
from settings.application import US, Application, NamedApplications, Provider
from settings.environ import ROOT, EnvironSource, Row, reading, rows
from settings.errors import SettingsError
from settings.outcomes import Endpoints, Hosts, SigningSecret, TargetName
from settings.paces import PaceSettings
from settings.values import (
    ENCRYPTION_KEYS,
    KIND,
    AbsolutePath,
    ApiUri,
    EncryptionKeys,
    Key,
    LedgerUrl,
    ListenAddress,
    RedisUrl,
    SecretUrl,
    SentryDsn,
)

# By so much a clock may be wrong before no key is trusted.
CLOCKS_DIFFER_S = CLOCK_TOLERANCE / SECOND

HOME = ROOT / ".run" / "sendq"


def setting(default: Any, meaning: str, *usual: str, unit: str = "", only: bool = False, **limits: Any) -> Any:
    """A field: what it means, its unit, and the usual names beside ``SENDQ_<FIELD>`` (or ``only`` those)."""
    return Field(
        default, description=meaning, json_schema_extra={"usual": [*usual], "unit": unit, "only": only}, **limits
    )


class Settings(BaseSettings):
    """All settings of a process. Frozen, and safe to print."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # The Nylas application called `default`, and the others.
    nylas_api_key: Key | None = setting(None, "the API key of the default application", "NYLAS_API_KEY", only=True)
    nylas_api_key_file: AbsolutePath | None = setting(
        None, "a file with that key instead; read again when needed, so a new key needs no restart",
        "NYLAS_API_KEY_FILE", only=True,
    )  # fmt: skip
    nylas_api_uri: ApiUri = setting(
        US, "where the API answers: the data region of the application (EU: https://api.eu.nylas.com)",
        "NYLAS_API_URI", only=True,
    )  # fmt: skip
    nylas_client_id: str | None = setting(None, "the application's client id", "NYLAS_CLIENT_ID", only=True)
    nylas_webhook_secret: Key | None = setting(
        None, "the secret that signs the application's webhooks", "NYLAS_WEBHOOK_SECRET", only=True
    )
    nylas_provider: Provider | None = setting(
        None, "the provider of all grants of the application, if they have one and the same: google, microsoft, ews, "
        "imap, icloud or yahoo (default: what is said at enqueue, else Nylas is asked once for each grant)",
        "NYLAS_PROVIDER", only=True,
    )  # fmt: skip
    named_applications: NamedApplications = setting(
        {}, "further applications: a JSON object of name -> {api_key or api_key_file, api_uri, client_id, "
        "webhook_secret, provider}; only the key is required", "SENDQ_APPLICATIONS", only=True,
    )  # fmt: skip

    # Where things live.
    database_url: LedgerUrl | None = setting(
        None, "the ledger: PostgreSQL 14 or later, or a SQLite file (default: a file in SENDQ_HOME)", "DATABASE_URL"
    )
    redis_url: RedisUrl | None = setting(
        None,
        "the broker: a Redis, 6.2 or later, that never evicts (default: an embedded one in SENDQ_HOME)",
        "REDIS_URL",
    )
    home: AbsolutePath = setting(HOME, "the directory of the embedded ledger and broker")
    run_dir: AbsolutePath | None = setting(
        None, "where workers keep their pulse for `sendq health --live` (default: a directory of this user in TMPDIR)"
    )

    # What is kept, in which form and for how long.
    encryption_keys: EncryptionKeys | None = setting(
        None, "keys that seal what the ledger keeps of messages: name:base64, separated by commas; the first one "
        "seals, all of them open (default: nothing is sealed). Web applications need them too",
    )  # fmt: skip
    encryption_keys_file: AbsolutePath | None = setting(None, "a file with those keys instead, read at the start")

    keep_bodies_days: float = setting(
        1.0, "the bodies of jobs that were sent, cancelled or have expired; those of dead letters stay with their job, "
        "for a retry", unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_sent_days: float = setting(30.0, "jobs that were sent, with their attempts", unit="days", ge=0, le=36500)
    keep_cancelled_days: float = setting(30.0, "jobs that were cancelled", unit="days", ge=0, le=36500)
    keep_expired_days: float = setting(90.0, "jobs that have expired", unit="days", ge=0, le=36500)
    keep_dead_days: float = setting(90.0, "dead letters; so long they can be retried", unit="days", ge=0, le=36500)
    keep_keys_days: float = setting(
        365.0, "keys, since they were first used, also when their jobs have gone: so long a repeat of an old call "
        "makes no second mail", unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_events_days: float = setting(180.0, "what happened, and what operators did", unit="days", ge=0, le=36500)
    keep_deliveries_days: float = setting(
        30.0, "outcomes that were told to whoever wanted to know, or given up; so long `sendq deliveries` knows them",
        unit="days", ge=0, le=36500,
    )  # fmt: skip
    keep_webhooks_days: float = setting(
        7.0, "which notifications were taken in, so that a repeat changes nothing; longer than the day after which an "
        "old one is refused for its time", unit="days", gt=1, le=36500,
    )  # fmt: skip

    # How much at a time.
    concurrency: int = setting(100, "calls to the API in flight per worker process", unit="calls", ge=1, le=2000)
    threads: int = setting(
        8, "threads that take bundles from the broker and claim them (Celery's -c); calls do not occupy them",
        unit="threads", ge=1, le=100,
    )  # fmt: skip
    slow_after_s: float = setting(
        5.0, "a call that takes longer gives its slot back and counts against the slow allowance (where slots are "
        "scarce, once it takes much longer than usual); less than SENDQ_READ_TIMEOUT_S", unit="s", gt=0,
    )  # fmt: skip
    slow_allowance: int | None = setting(
        None, "how many slow calls one provider may have in a process (default: four times SENDQ_CONCURRENCY)",
        unit="calls", ge=1,
    )  # fmt: skip
    paces: PaceSettings = setting(
        (), "paces of one's own, a JSON list; the most specific has the last word: [{\"provider\": \"google\", "
        "\"limits\": {\"minute\": 15000}}, {\"grant\": \"…\", \"width\": 1, \"daily\": 500}]",
    )  # fmt: skip
    turn_s: float = setting(
        2.0, "a lane's turn ends after about this long; less than SENDQ_UNCLAIMED_AFTER_S", unit="s", gt=0, le=60
    )
    turn_jobs: int = setting(20, "jobs that a turn loads at most", unit="jobs", ge=1, le=1000)
    bundle_turns: int = setting(50, "turns that one Celery message carries at most", unit="turns", ge=1, le=1000)

    # The HTTP calls.
    connect_timeout_s: float = setting(
        10.0, "the longest a connection to the API may take to open", unit="s", gt=0, le=60
    )
    read_timeout_s: float = setting(
        150.0, "the longest an answer may take: Nylas asks for 150 s (a self-hosted Exchange takes 2 minutes), and "
        "whoever waits less loses answers of messages that went out", unit="s", gt=0, le=600,
    )  # fmt: skip
    key_max_age_s: float = setting(
        2700.0, "an Idempotency-Key older than this is not used again; with SENDQ_READ_TIMEOUT_S it must stay below "
        "the hour that Nylas keeps keys", unit="s", gt=0, lt=3600,
    )  # fmt: skip
    settle_s: float = setting(
        900.0, "after the last request of a send whose outcome is unknown, so long its absence from the mailbox proves "
        "nothing: the index may lag behind", unit="s", ge=0, le=86_400,
    )  # fmt: skip
    in_doubt: Literal["wait", "resend", "dead"] = setting(
        "wait", "what happens to a send that may have gone out once looking for it was in vain for SENDQ_LOOK_FOR_S: "
        "it waits for a person, is sent again at the risk of a second copy, or is given up; a job may say otherwise"
    )  # fmt: skip
    look_for_s: float = setting(
        21_600.0, "so long such a send is looked for, counted from when its absence would prove something; and for at "
        "least three answered looks", unit="s", ge=0,
    )  # fmt: skip
    metadata_key: Literal["key1", "key2", "key3", "key4", "key5"] = setting(
        "key1", "the metadata key that carries the job's id; your messages cannot use it (Nylas indexes key1 to key5)"
    )

    ask_providers: bool = setting(
        True, "ask Nylas once about each grant whose provider nobody has named: it decides the pace"
    )
    announce_after_s: float = setting(
        30.0, "the owner of a grant is called for this long after its lane was closed: time to see whether many failed "
        "alike, which is the application's trouble and not theirs", unit="s", ge=0,
    )  # fmt: skip
    escalate_grants: int = setting(
        10, "so many grants of one provider closed by one rule within SENDQ_ESCALATE_WINDOW_S are the application's "
        "trouble: the provider is held, and nobody is asked to sign in again", unit="grants", ge=2,
    )  # fmt: skip
    escalate_window_s: float = setting(
        300.0, "see SENDQ_ESCALATE_GRANTS; more than SENDQ_ANNOUNCE_AFTER_S", unit="s", gt=0
    )
    escalate_hold_s: float = setting(900.0, "how long that hold lasts before one call is tried", unit="s", gt=0)
    reauth_url: str | None = setting(
        None, "your page on which a person signs in again; {grant_id} and {application} are filled in (default: "
        "Nylas's hosted authentication, if the client id is known)",
    )  # fmt: skip
    policy_file: AbsolutePath | None = setting(
        None, "rows of the error policy that come before the table's own (TOML; see `sendq policy check`)"
    )

    # Who is alive, and who leads.
    beat_interval_s: float = setting(2.0, "a worker says this often that it lives", unit="s", gt=0)
    stale_after_s: float = setting(
        8.0, "a worker silent for this long is taken for dead; more than three times SENDQ_BEAT_INTERVAL_S",
        unit="s", gt=0,
    )  # fmt: skip
    unclaimed_after_s: float = setting(
        10.0, "a turn that no worker claimed for this long is handed out again; more than SENDQ_TURN_S, for which a "
        "bundle may wait behind another", unit="s", gt=0,
    )  # fmt: skip
    lease_s: float = setting(
        4.5, "the dispatcher's lease; when it dies, another takes over after at most this and one SENDQ_POLL_S",
        unit="s", gt=0,
    )  # fmt: skip
    poll_s: float = setting(
        0.2, "a worker that stands by looks this often whether the lead is free; less than a third of SENDQ_LEASE_S",
        unit="s", gt=0,
    )  # fmt: skip
    grace_s: float = setting(
        30.0, "time between SIGTERM and the end; calls not finished 3 s before it are recorded as in doubt. Give the "
        "supervisor more than this", unit="s", gt=5,
    )  # fmt: skip

    # Outcomes: what the web applications are told (`on_outcome`).
    outcome_broker_url: RedisUrl | None = setting(
        None, "the broker of the Celery application whose tasks are told of outcomes (a Redis)"
    )
    outcome_endpoints: Endpoints = setting(
        {}, "webhooks that `on_outcome` may name (webhook:NAME): a JSON object of name -> {url, secret}; without a "
        "secret of its own an endpoint has SENDQ_OUTCOME_SECRET",
    )  # fmt: skip
    outcome_hosts: Hosts = setting(
        (), "hosts that `on_outcome` may give https:// addresses of, with commas between them; a port other than 443 "
        "belongs to the host. No other is called, whatever an application enqueues",
    )  # fmt: skip
    outcome_secret: SigningSecret | None = setting(
        None, "what signs outcome webhooks: whsec_ and the base64 of 24 to 64 bytes"
    )
    outcome_timeout_s: float = setting(
        10.0, "how long a receiver of outcomes may take to answer", unit="s", gt=0, le=60
    )
    on_reauth: TargetName | None = setting(
        None, "who is told of every grant whose owner must sign in again, beside those whom its waiting jobs name; "
        "written like `on_outcome`",
    )  # fmt: skip
    enqueue_task: bool = setting(
        False, "let other Celery applications enqueue by name (`sendq.enqueue`): message bodies then pass through the "
        "broker",
    )  # fmt: skip

    # What is told to whom.
    log_format: Literal["json", "console"] = setting("json", "one JSON object a line, or columns for people")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting("INFO", "the least level that is logged")
    send_events: bool = setting(
        False, "report every attempt as a Celery event, for Flower (the worker's -E does the same)"
    )
    sentry_dsn: SentryDsn | None = setting(None, "where errors are reported (default: nowhere)", "SENTRY_DSN")
    sentry_traces_sample_rate: float = setting(
        0.0, "the share of attempts that are reported to Sentry as traces, with their time in the queue and their call",
        "SENTRY_TRACES_SAMPLE_RATE", unit="of 1", ge=0, le=1,
    )  # fmt: skip
    metrics_address: ListenAddress | None = setting(
        None, "host:port where a worker serves its metrics to Prometheus, to whoever asks; port 0 takes any that is "
        "free, and the log says which (default: nowhere)",
    )  # fmt: skip

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings in ``environ`` (default: the process's own environment).

        Raises ``SettingsError`` with every problem: values that do not fit, and ``SENDQ_`` variables nobody knows.
        """
        with reading(cls, os.environ if environ is None else environ):
            return cls()

    @classmethod
    def describe(cls) -> list[Row]:
        """Every setting: name, variables, meaning, unit and default, for the documentation."""
        return rows(cls)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, EnvironSource(settings_cls)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if problems := list(conflicts(self)):
            raise PydanticCustomError(KIND, "the settings do not fit together", {"problems": problems})
        return self

    @cached_property
    def applications(self) -> Mapping[str, Application]:
        """Every configured application by name. With nothing set it holds a ``default`` without a key."""
        plain = (self.nylas_api_key, self.nylas_api_key_file, self.nylas_client_id, self.nylas_webhook_secret)
        if self.named_applications and all(value is None for value in plain):
            return self.named_applications
        default = Application(
            name="default",
            api_key=self.nylas_api_key,
            api_key_file=self.nylas_api_key_file,
            api_uri=self.nylas_api_uri,
            client_id=self.nylas_client_id,
            webhook_secret=self.nylas_webhook_secret,
            provider=self.nylas_provider,
        )
        return {"default": default, **self.named_applications}

    def application(self, name: str = "default") -> Application:
        """One application by its name; raises ``SettingsError`` if there is none."""
        try:
            return self.applications[name]
        except KeyError:
            reason = f"has no application {name!r}"
            raise SettingsError(
                [Problem("SENDQ_APPLICATIONS", reason, "add it, or correct the job's application")]
            ) from None

    def require_keys(self) -> None:
        """Raise ``SettingsError`` with every application that has no readable key: what a worker asks at start."""
        problems: list[Problem] = []
        for application in self.applications.values():
            try:
                application.api_key()
            except SettingsError as error:
                problems += error.problems
        if problems:
            raise SettingsError(problems)

    @cached_property
    def vault(self) -> Vault:
        """The encryption keys; without any, nothing is sealed.

        Raises ``SettingsError`` if their file cannot be read, or holds no keys.
        """
        if self.encryption_keys is not None:
            return Vault.parse(self.encryption_keys.get_secret_value())
        if self.encryption_keys_file is None:
            return Vault()
        field = "SENDQ_ENCRYPTION_KEYS_FILE"
        try:
            vault = Vault.parse(self.encryption_keys_file.read_text(encoding="ascii"))
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise SettingsError([Problem(field, reason, "check the path, and who may read the file")]) from None
        except UnicodeDecodeError:
            raise SettingsError([Problem(field, "names a file that holds more than keys", ENCRYPTION_KEYS)]) from None
        except (ValueError, RuntimeError) as error:
            raise SettingsError([Problem(field, f"cannot be used: {error}", ENCRYPTION_KEYS)]) from None
        if not vault:
            raise SettingsError([Problem(field, "names a file that holds no key", ENCRYPTION_KEYS)])
        return vault

    @property
    def ledger_url(self) -> SecretUrl:
        """The ledger's address: DATABASE_URL, else the SQLite file in ``home``."""
        if self.database_url is not None:
            return self.database_url
        return SecretUrl(URL.create("sqlite", database=str(self.home / "sendq.db")).render_as_string())

    @property
    def broker_url(self) -> SecretUrl:
        """The broker's address in kombu's form; raises ``SettingsError`` while the embedded Redis has none yet."""
        if self.redis_url is None:
            remedy = "set it, or start the workers with `sendq up`, which brings a Redis along"
            raise SettingsError([Problem("REDIS_URL", "is not set", remedy)])
        return self.redis_url

    @property
    def redis_home(self) -> Path:
        """The directory of the embedded Redis."""
        return self.home / "redis"

    @property
    def slow_calls(self) -> int:
        """How many slow calls one provider may have in a process."""
        return self.slow_allowance or 4 * self.concurrency

    @property
    def lane_paces(self) -> Paces:
        """Every lane's pace: its provider's, and what `paces` says."""
        providers = {name: one.provider for name, one in self.applications.items() if one.provider is not None}
        return Paces([pace.rule for pace in self.paces], providers)

    def replace(self, **changes: Any) -> Self:
        """These settings with some fields changed, checked like any other."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


def conflicts(settings: Settings) -> Iterator[Problem]:
    """What single fields cannot see: settings that contradict each other."""
    s = settings
    if s.nylas_api_key is not None and s.nylas_api_key_file is not None:
        yield Problem("NYLAS_API_KEY", "is set beside NYLAS_API_KEY_FILE", "set one of the two")
    if s.encryption_keys is not None and s.encryption_keys_file is not None:
        yield Problem("SENDQ_ENCRYPTION_KEYS", "is set beside SENDQ_ENCRYPTION_KEYS_FILE", "set one of the two")
    plain = (s.nylas_api_key, s.nylas_api_key_file, s.nylas_client_id, s.nylas_webhook_secret)
    if "default" in s.named_applications and any(value is not None for value in plain):
        yield Problem("SENDQ_APPLICATIONS.default", "is set beside NYLAS_ variables, which mean the same application",
                      "set one of the two")  # fmt: skip
    if s.stale_after_s <= 3 * s.beat_interval_s:
        yield Problem("SENDQ_STALE_AFTER_S", "is not more than three times SENDQ_BEAT_INTERVAL_S",
                      "raise it, or two late beats count as a death")  # fmt: skip
    if s.unclaimed_after_s <= s.turn_s:
        yield Problem("SENDQ_UNCLAIMED_AFTER_S", "is not more than SENDQ_TURN_S",
                      "raise it, or turns that only wait behind another are handed out twice")  # fmt: skip
    if s.poll_s >= s.lease_s / 3:
        yield Problem("SENDQ_POLL_S", "is not less than a third of SENDQ_LEASE_S",
                      "lower it, or a dispatcher that died is followed late")  # fmt: skip
    if s.announce_after_s >= s.escalate_window_s:
        yield Problem("SENDQ_ANNOUNCE_AFTER_S", "is not less than SENDQ_ESCALATE_WINDOW_S",
                      "lower it, or people are called for before anybody can see that many failed alike")  # fmt: skip
    if s.slow_after_s >= s.read_timeout_s:
        yield Problem("SENDQ_SLOW_AFTER_S", "is not less than SENDQ_READ_TIMEOUT_S",
                      "lower it, or a hanging call never counts as slow")  # fmt: skip
    unsigned = [name for name, endpoint in s.outcome_endpoints.items() if endpoint.secret is None]
    if s.outcome_secret is None and (s.outcome_hosts or unsigned):
        whose = "SENDQ_OUTCOME_HOSTS" if s.outcome_hosts else f"the endpoint {unsigned[0]!r}"
        yield Problem("SENDQ_OUTCOME_SECRET", f"is not set, and nothing else signs for {whose}",
                      "set it, or no receiver could tell our outcomes from anybody's")  # fmt: skip
    if s.key_max_age_s + s.read_timeout_s + CLOCKS_DIFFER_S >= 3600:
        yield Problem("SENDQ_KEY_MAX_AGE_S", "reaches, with SENDQ_READ_TIMEOUT_S and "
                      f"{CLOCKS_DIFFER_S:g} s by which clocks may differ, the hour that Nylas keeps keys",
                      "lower it, or a repeat may be taken for a new message")  # fmt: skip
