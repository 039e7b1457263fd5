"""Suppress recipients, and let them get mail again."""

from __future__ import annotations

from collections.abc import Iterator

from sendq.console.acts.act import Act, Choice, Given, Preview, count
from sendq.console.runs import Facts
from sendq.console.texts import absolute, words
from sendq.errors import InvalidArgument, NotFound, Problem, Unreadable
from sendq.messages.digests import is_digest
from sendq.operators import Operators
from sendq.rules.suppression import Reason
from sendq.scope import DEFAULT_APPLICATION
from sendq.views.suppressions import Suppression

BACK = ("suppressions",)

# What to know before a recipient gets mail again.
WARNINGS = {
    Reason.BOUNCED: "Mail to this recipient bounced. If it bounces again, the recipient is suppressed again.",
    Reason.COMPLAINED: "This person marked a mail as spam. Send to them only if they have asked for it since.",
    Reason.UNSUBSCRIBED: "This person unsubscribed. Send to them only if they have asked for it since.",
}


class Suppress(Act):
    """Put a recipient on a list: the digest of one that was looked up, or an address in the form."""

    name = "suppress"
    fields = ("recipient", "application")

    def preview(self, operators: Operators, given: Given) -> Preview:
        """The form; what it adds is checked when it is sent."""
        category = Choice("category", "Category", hint="empty: no mail at all")
        if given.get("recipient") is None:
            choices: tuple[Choice, ...] = (
                Choice("address", "Recipient", required=True, hint="an address, or a digest"),
                Choice("application", "Application", value=DEFAULT_APPLICATION),
                category,
            )
        else:
            _digest_of(given)
            choices = (category,)
        return Preview(
            what="Suppress a recipient",
            button="Suppress",
            facts=[("Effect", "new mail is refused; mail that waits ends unsent")],
            back=BACK,
            choices=choices,
        )

    def check(self, operators: Operators, given: Given) -> None:
        """Try it with what the form asks for."""
        if given.get("recipient") is None and given.get("address") is None:
            raise InvalidArgument([Problem("recipient", "is missing", "give an address, or the digest of one")])
        self._run(operators, given, dry_run=True)

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """One step."""
        changed = self._run(operators, given, dry_run=False)
        added = (
            f"{count(changed, 'entry', 'entries')} added" if changed else "unchanged: there is such an entry already"
        )
        yield ("Result", added), ("Application", given.application), ("For", given.get("category") or "all mail")

    def _run(self, operators: Operators, given: Given, *, dry_run: bool) -> int:
        recipient = given.get("address") or "" if given.get("recipient") is None else _digest_of(given)
        try:
            run = operators.suppress(
                [recipient], application=given.application, category=given.get("category"), vault=given.vault,
                by=given.by, reason=given.reason, dry_run=dry_run,
            )  # fmt: skip
            return run.finish().changed
        except Unreadable:
            reason = "cannot be added here: the ledger is encrypted, and the console does not have its key"
            raise InvalidArgument(
                [Problem("recipient", reason, "use sendq suppressions add where workers run")]
            ) from None


class Unsuppress(Act):
    """Remove one entry of a list."""

    name = "unsuppress"
    fields = ("recipient", "application", "category")

    def preview(self, operators: Operators, given: Given) -> Preview:
        """The entry."""
        found = _entry(operators, given)
        facts = [("For", given.get("category") or "all mail")]
        if found is None:
            warnings = ["There is no such entry: the recipient is not suppressed by it any more."]
        else:
            facts += [("Because", words(found.reason)), ("Source", found.source), ("Since", absolute(found.at))]
            warnings = [WARNINGS[Reason(found.reason)]] if found.reason in WARNINGS else []
        return Preview(
            what="Remove a recipient from the suppression list",
            button="Remove",
            facts=facts,
            back=BACK,
            warnings=warnings,
            possible=found is not None,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """One step."""
        run = operators.unsuppress(
            [_digest_of(given)], application=given.application, category=given.get("category"), by=given.by,
            reason=given.reason,
        )  # fmt: skip
        removed = run.finish().changed
        said = f"{count(removed, 'entry', 'entries')} removed" if removed else "there was no such entry"
        yield ("Result", said), ("Jobs that ended because of it", "can be retried: dead letters, rule suppressed")


def _digest_of(given: Given) -> str:
    digest = given.get("recipient")
    if digest is None or not is_digest(digest):
        raise NotFound("this address has no digest of a recipient")
    return digest


def _entry(operators: Operators, given: Given) -> Suppression | None:
    category = given.get("category")
    found = operators.suppressions(
        application=given.application, category=category, all_mail=category is None, recipient=_digest_of(given)
    )
    return next(iter(found.items), None)
