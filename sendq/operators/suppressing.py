"""Suppression lists: the part of `Operators` that shows and changes them.

Its modules are imported when they are first used: they know what an address is, for which a package is loaded that no
other command needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sendq.errors import Problem
from sendq.filter_checks import limit_of, members_of, scope_of
from sendq.operators.acts.checks import refuse
from sendq.operators.acts.run import Run
from sendq.operators.base import LedgerAccess
from sendq.rules.suppression import ALL_MAIL, Reason
from sendq.scope import DEFAULT_APPLICATION
from sendq.signing import signed
from sendq.vault import Vault
from sendq.views.page import Page
from sendq.views.suppressions import Suppression, SuppressionCount

if TYPE_CHECKING:
    from sendq.operators.acts.suppress import SuppressProgress
    from sendq.suppression_list import Given


class Suppressing(LedgerAccess):
    """The acts take ``by`` and ``reason`` as those of `Acting` do, and ``vault``: the encryption keys of the ledger."""

    def suppressions(
        self,
        *,
        application: str | None = None,
        category: str | None = None,
        all_mail: bool = False,
        reason: Reason | str | None = None,
        recipient: str | None = None,
        vault: Vault | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Suppression]:
        """Entries of the suppression lists, the latest first. ``all_mail``: only those for all mail. ``recipient``:
        those of an address, or of the digest of one.
        """
        from sendq.ledger.operators import suppressions
        from sendq.suppression_list import checked

        scope_of(application, None, None)
        if all_mail and category is not None:
            refuse([Problem("category", "is given with all_mail", "give one of them")])
        reasons = members_of("reason", reason, Reason)
        given = None if recipient is None else checked([recipient], None)[0]
        size, kind = limit_of(limit), next(iter(reasons), None)
        of = ALL_MAIL if all_mail else category
        with self._ledger.reading() as connection:
            return suppressions.entries(
                connection, application=application, category=of, reason=kind, recipient=given, vault=vault or Vault(),
                after=cursor, limit=size,
            )  # fmt: skip

    def suppression_counts(self) -> tuple[SuppressionCount, ...]:
        """Entries of the suppression lists by application, category and reason; of the latest 100,000."""
        from sendq.ledger.operators import suppressions

        return tuple(self._read(suppressions.counts))

    def digest_of_recipient(
        self, recipient: str, *, application: str = DEFAULT_APPLICATION, vault: Vault | None = None
    ) -> str | None:
        """The digest that an application's list would have of an address; None: the ledger has no list yet."""
        from sendq.ledger.operators import suppressions
        from sendq.suppression_list import checked

        scope_of(application, None, None)
        (given,) = checked([recipient], None)
        with self._ledger.reading() as connection:
            return suppressions.digest_of(connection, given, application, vault=vault or Vault())

    def name_of_suppressions(self, application: str = DEFAULT_APPLICATION, *, vault: Vault | None = None) -> str:
        """Names an application's list in exported files; empty if the ledger has no list yet."""
        from sendq.ledger.operators import suppressions

        with self._ledger.reading() as connection:
            return suppressions.name_of_list(connection, application, vault=vault or Vault()) or ""

    def suppress(
        self,
        recipients: Sequence[str],
        *,
        application: str = DEFAULT_APPLICATION,
        category: str | None = None,
        vault: Vault | None = None,
        by: str,
        reason: str,
        dry_run: bool = False,
    ) -> Run[SuppressProgress]:
        """Put recipients (addresses, or digests of them) on the suppression list of an application.

        ``category``: they get no more mail of it; None: no mail at all. ``vault``: the ledger's encryption keys.
        """
        from sendq.suppression_list import checked

        by, reason = signed(by, reason)
        given = checked(recipients, category)
        return self._suppress(given, application, vault, by, reason, dry_run=dry_run)

    def unsuppress(
        self,
        recipients: Sequence[str],
        *,
        application: str = DEFAULT_APPLICATION,
        category: str | None = None,
        every_category: bool = False,
        vault: Vault | None = None,
        by: str,
        reason: str,
        dry_run: bool = False,
    ) -> Run[SuppressProgress]:
        """Remove recipients from the suppression list: from the entries of a category (None: those for all mail), or of
        ``every_category``. Jobs that ended because of them can be retried.
        """
        from sendq.operators.acts.suppress import unsuppress
        from sendq.suppression_list import checked

        by, reason = signed(by, reason)
        given = checked(recipients, category)
        if category is not None and every_category:
            refuse([Problem("category", "is given with every_category", "give one of them")])
        scope_of(application, None, None)
        return Run(
            unsuppress(
                self._ledger, given, application, every_category=every_category, vault=vault or Vault(), by=by,
                reason=reason, dry_run=dry_run,
            )
        )  # fmt: skip

    def import_suppressions(
        self,
        lines: Iterable[str],
        *,
        application: str = DEFAULT_APPLICATION,
        delimiter: str = ",",
        vault: Vault | None = None,
        by: str,
        reason: str,
        dry_run: bool = False,
    ) -> Run[SuppressProgress]:
        """Add the entries of a CSV file (`sendq.suppression_list`); ``delimiter`` separates its columns.

        Raises `InvalidArgument`, and adds nothing, if one of its lines is wrong or it has no entries.
        """
        from sendq.ledger.operators import suppressions
        from sendq.suppression_list import read_csv

        by, reason = signed(by, reason)
        scope_of(application, None, None)
        keys = vault or Vault()
        with self._ledger.reading() as connection:
            name = suppressions.name_of_list(connection, application, vault=keys)
        given = read_csv(lines, delimiter=delimiter, name=name)
        return self._suppress(given, application, keys, by, reason, dry_run=dry_run)

    def _suppress(
        self, given: Sequence[Given], application: str, vault: Vault | None, by: str, reason: str, *, dry_run: bool
    ) -> Run[SuppressProgress]:
        from sendq.operators.acts.suppress import suppress

        scope_of(application, None, None)
        keys = vault or Vault()
        return Run(suppress(self._ledger, given, application, vault=keys, by=by, reason=reason, dry_run=dry_run))
