"""What all pages of one console share: the ledger, who may do what, templates, and acts under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sendq.console import files, texts
from sendq.console.asked import Asked, View
from sendq.console.identity import Who
from sendq.console.live import Fragments
from sendq.console.runs import BatchId, Runs
from sendq.console.sessions import Sessions, Signer
from sendq.console.texts import Rules
from sendq.operators import Operators
from sendq.queue import SendQueue
from sendq.vault import Vault
from sendq.web.login_attempts import LoginAttempts
from sendq.web.proxies import Proxies

TEMPLATES = Path(__file__).parent / "templates"

# The address where a grant's owner signs in again, by application and grant; None: none is configured.
ReauthUrl = Callable[[str, str], "str | None"]


@cache
def _compiled() -> Environment:
    """The templates, compiled once in a process. Everything that they show is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    environment.filters |= {
        "words": texts.words, "tone": texts.tone, "number": texts.number, "absolute": texts.absolute,
        "span": texts.span, "relative": _relative,
    }  # fmt: skip
    environment.tests["batch_id"] = lambda value: isinstance(value, BatchId)
    environment.globals["digest"] = files.digest
    environment.globals["ui"] = environment.get_template("parts.html").module
    return environment


def _relative(at: datetime, asked: Asked) -> str:
    return texts.relative(at, asked.now)


@dataclass
class Desk:
    """One console."""

    operators: Operators
    who: Who
    signer: Signer
    sessions: Sessions | None  # with a password file
    proxies: Proxies
    rules: Rules
    reauth_url: ReauthUrl
    fragments: Fragments
    vault: Vault = field(default_factory=Vault)  # of an encrypted ledger: to look up recipients, and to undo
    queue: SendQueue | None = None  # replaces messages
    runs: Runs = field(default_factory=Runs)
    attempts: LoginAttempts = field(default_factory=LoginAttempts)
    templates: Environment = field(default_factory=_compiled)

    def render(self, view: View, asked: Asked, *, fragment: bool = False) -> str:
        """A page, or its live part alone."""
        template = self.templates.get_template(view.template)
        return template.render(
            view.values,
            asked=asked,
            layout="fragment.html" if fragment else "layout.html",
            rules=self.rules,
            signs_out=self.sessions is not None,
        )

    def remedy(self, rule: str | None) -> str | None:
        """What a person can do about what a rule decided; None: nothing."""
        said = self.rules.get(rule or "")
        return None if said is None or said.remedy == "Nothing to do." else said.remedy
