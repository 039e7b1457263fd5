"""All settings of a process: read from the environment, checked together, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from sendq.clock import SECOND
from sendq.errors import Problem
from sendq.facts.notices import OutcomeOptions
from sendq.ledger.db.urls import sqlite_url
from sendq.rules.budgets import Budgets
from sendq.rules.paces import Paces
from sendq.rules.preflight import CLOCK_TOLERANCE
from sendq.vault import Vault
from settings.application import Application
from settings.environ import Row, read, rows
from settings.errors import SettingsError
from settings.fields import Fields
from settings.values import ENCRYPTION_KEYS, IN_MEMORY, KIND, SecretUrl

# How far clocks may differ before idempotency keys are no longer trusted.
CLOCKS_DIFFER_S = CLOCK_TOLERANCE / SECOND


class Settings(Fields):
    """All settings of a process. Frozen, and safe to print."""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings in ``environ`` (default: the process's environment).

        Raises ``SettingsError`` with every problem: invalid values and unknown ``SENDQ_`` variables.
        """
        return read(cls, os.environ if environ is None else environ)

    @classmethod
    def describe(cls) -> list[Row]:
        """Every setting: name, variables, meaning, unit and default, for the documentation."""
        return rows(cls)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if problems := list(conflicts(self)):
            raise PydanticCustomError(KIND, "the settings do not fit together", {"problems": problems})
        return self

    @property
    def sets_default(self) -> bool:
        """Whether a variable of the application ``default`` is set."""
        plain = (self.nylas_api_key, self.nylas_api_key_file, self.nylas_client_id, self.nylas_webhook_secret)
        return any(value is not None for value in plain)

    @cached_property
    def applications(self) -> Mapping[str, Application]:
        """The configured applications by name; without any, a ``default`` without a key."""
        if self.named_applications and not self.sets_default:
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
        """The application of that name; raises ``SettingsError`` if there is none."""
        try:
            return self.applications[name]
        except KeyError:
            reason = f"has no application {name!r}"
            raise SettingsError(
                [Problem("SENDQ_APPLICATIONS", reason, "add it, or correct the job's application")]
            ) from None

    def require_keys(self) -> None:
        """Raise ``SettingsError`` listing every application without a readable key. Workers check this at start."""
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
        """The encryption keys; without any, nothing is encrypted.

        Raises ``SettingsError`` if their file cannot be read, or holds no keys.
        """
        if self.encryption_keys is not None:
            keys = self.encryption_keys.get_secret_value()
            return Vault.parse(keys, accept_unencrypted=self.accept_unencrypted)
        if self.encryption_keys_file is None:
            return Vault()
        field = "SENDQ_ENCRYPTION_KEYS_FILE"
        try:
            keys = self.encryption_keys_file.read_text(encoding="ascii")
            vault = Vault.parse(keys, accept_unencrypted=self.accept_unencrypted)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise SettingsError([Problem(field, reason, "check the path and the file's permissions")]) from None
        except UnicodeDecodeError:
            raise SettingsError([Problem(field, "names a file with more than keys in it", ENCRYPTION_KEYS)]) from None
        except (ValueError, RuntimeError) as error:
            raise SettingsError([Problem(field, f"cannot be used: {error}", ENCRYPTION_KEYS)]) from None
        if not vault:
            raise SettingsError([Problem(field, "names a file without a key", ENCRYPTION_KEYS)])
        return vault

    @property
    def ledger_url(self) -> SecretUrl:
        """The ledger's address: DATABASE_URL, else the SQLite file in ``home``."""
        if self.database_url is not None:
            return self.database_url
        return SecretUrl(sqlite_url(self.home / "sendq.db"))

    @property
    def broker_url(self) -> SecretUrl:
        """The broker's address in kombu's form; raises ``SettingsError`` until the embedded Redis has one."""
        if self.redis_url is None:
            remedy = "set it, or start the workers with `sendq up`, which includes a Redis"
            raise SettingsError([Problem("REDIS_URL", "is not set", remedy)])
        return self.redis_url

    @property
    def outcomes_of_mail(self) -> OutcomeOptions:
        """What outcomes about mail are created, and what they contain."""
        return OutcomeOptions(self.outcome_delivered, frozenset(self.outcome_addresses))

    @property
    def has_sqlite_ledger(self) -> bool:
        """Whether the ledger is a file of this machine."""
        return self.ledger_url.get_secret_value().startswith("sqlite")

    def make_home(self) -> None:
        """Create ``home``, with the directories above it that are missing, for this user alone: it holds mail."""
        for directory in reversed([self.home, *self.home.parents]):
            directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def redis_home(self) -> Path:
        """The directory of the embedded Redis."""
        return self.home / "redis"

    @property
    def slow_calls(self) -> int:
        """How many slow calls one provider may have per process."""
        return self.slow_allowance or 4 * self.concurrency

    @property
    def lane_paces(self) -> Paces:
        """Every lane's pace: its provider's, with the changes in `paces`."""
        providers = {name: one.provider for name, one in self.applications.items() if one.provider is not None}
        return Paces([pace.rule for pace in self.paces], providers)

    @cached_property
    def send_budgets(self) -> Budgets:
        """The budgets, by application and tag."""
        return Budgets(self.budgets)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated like any other."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


def conflicts(settings: Settings) -> Iterator[Problem]:
    """Settings that contradict each other, which no single field can detect."""
    s = settings
    if s.nylas_api_key is not None and s.nylas_api_key_file is not None:
        yield Problem("NYLAS_API_KEY", "is set together with NYLAS_API_KEY_FILE", "set one of the two")
    if s.encryption_keys is not None and s.encryption_keys_file is not None:
        yield Problem("SENDQ_ENCRYPTION_KEYS", "is set together with SENDQ_ENCRYPTION_KEYS_FILE", "set one of the two")
    if "default" in s.named_applications and s.sets_default:
        yield Problem("SENDQ_APPLICATIONS.default", "is set together with NYLAS_ variables, which define the same "
                      "application", "set one of the two")  # fmt: skip
    if s.redis_url is not None and s.redis_url.get_secret_value() == IN_MEMORY and not s.has_sqlite_ledger:
        yield Problem("REDIS_URL", "is memory://, which connects no two workers",
                      "set it to a Redis server; memory:// is for one worker with a SQLite ledger")  # fmt: skip
    has_default = s.sets_default or not s.named_applications
    known = {*s.named_applications, *(["default"] if has_default else [])}
    for name in sorted({one.application for one in s.budgets} - known):
        yield Problem("SENDQ_BUDGETS", f"names an unknown application {name!r}",
                      f"correct it; applications: {', '.join(sorted(known))}")  # fmt: skip
    if s.stale_after_s <= 3 * s.beat_interval_s:
        yield Problem("SENDQ_STALE_AFTER_S", "is not more than three times SENDQ_BEAT_INTERVAL_S",
                      "raise it, or two late heartbeats make a worker count as dead")  # fmt: skip
    if s.unclaimed_after_s <= s.turn_s:
        yield Problem("SENDQ_UNCLAIMED_AFTER_S", "is not more than SENDQ_TURN_S",
                      "raise it, or turns that merely wait behind another are dispatched twice")  # fmt: skip
    if s.poll_s >= s.lease_s / 3:
        yield Problem("SENDQ_POLL_S", "is not less than a third of SENDQ_LEASE_S",
                      "lower it, or another worker takes over late when the leader dies")  # fmt: skip
    if s.announce_after_s >= s.escalate_window_s:
        yield Problem("SENDQ_ANNOUNCE_AFTER_S", "is not less than SENDQ_ESCALATE_WINDOW_S",
                      "lower it, or owners are asked to sign in before it shows that many failed alike")  # fmt: skip
    if s.slow_after_s >= s.read_timeout_s:
        yield Problem("SENDQ_SLOW_AFTER_S", "is not less than SENDQ_READ_TIMEOUT_S",
                      "lower it, or a call that hangs never counts as slow")  # fmt: skip
    unsigned = [name for name, endpoint in s.outcome_endpoints.items() if endpoint.secret is None]
    if s.outcome_secret is None and (s.outcome_hosts or unsigned):
        whose = "SENDQ_OUTCOME_HOSTS" if s.outcome_hosts else f"the endpoint {unsigned[0]!r}"
        yield Problem("SENDQ_OUTCOME_SECRET", f"is not set, and {whose} has no other secret",
                      "set it, or receivers cannot verify that outcomes are genuine")  # fmt: skip
    if s.console_proxy_header is not None and s.console_passwords_file is not None:
        yield Problem("SENDQ_CONSOLE_PROXY_HEADER", "is set together with SENDQ_CONSOLE_PASSWORDS_FILE",
                      "set one of the two")  # fmt: skip
    if s.console_proxy_header is not None and not s.console_trusted_proxies:
        yield Problem("SENDQ_CONSOLE_TRUSTED_PROXIES", "is not set, and SENDQ_CONSOLE_PROXY_HEADER is",
                      "set it to the proxy's address: a header that anybody may send names nobody")  # fmt: skip
    if s.console_operators and s.console_proxy_header is None:
        yield Problem("SENDQ_CONSOLE_OPERATORS", "is set without SENDQ_CONSOLE_PROXY_HEADER",
                      "set that too; in a password file each line has its role")  # fmt: skip
    if s.key_max_age_s + s.read_timeout_s + CLOCKS_DIFFER_S >= 3600:
        yield Problem("SENDQ_KEY_MAX_AGE_S", "is too high: with SENDQ_READ_TIMEOUT_S and "
                      f"{CLOCKS_DIFFER_S:g} s of clock difference it reaches the hour for which Nylas remembers keys",
                      "lower it, or a repeated call may be treated as a new message")  # fmt: skip
