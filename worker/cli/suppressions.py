"""``sendq suppressions``: recipients who get no more mail."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

import click

from worker.cli.connection import load_settings, open_operators
from worker.cli.filters import page_options, tell_of_more, whole_page
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json, tell_table
from worker.cli.params import by_option, dry_run_option, reason_option

if TYPE_CHECKING:
    from sendq import Operators, Suppression
    from sendq.operators import Run
    from sendq.operators.acts.suppress import SuppressProgress
    from sendq.views import Page

# Spelled out, so that --help needs no import of the ledger; a test holds them to its own.
REASONS = ("bounced", "complained", "unsubscribed", "added", "imported")

_application = click.option(
    "--application", default="default", show_default=True, help="The application whose list it is."
)


@click.group()
def suppressions() -> None:
    """Show and change the lists of recipients who get no more mail.

    A recipient is put on the list of the application if mail to it bounces (an address that cannot be delivered to) or
    if the person complains, and on that of a category if the person unsubscribes. The lists keep digests, not
    addresses.
    """


@suppressions.command("list")
@click.option("--application", help="Only this application's list.")
@click.option("--category", metavar="NAME", help="Only entries for this category.")
@click.option("--all-mail", is_flag=True, help="Only entries for all mail.")
@click.option("--reason", type=click.Choice(REASONS), help="Only entries with this reason.")
@click.option("--recipient", metavar="ADDRESS", help="Only this recipient's: an address, or a digest.")
@page_options()
@json_option
def list_entries(
    application: str | None,
    category: str | None,
    all_mail: bool,
    reason: str | None,
    recipient: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List the entries, the latest first.

    With --recipient: those that keep mail from this person, in all applications. With --category too, the entry for all
    mail counts as well. Exit status 1 if there is none.
    """
    if category is not None and all_mail:
        raise click.UsageError("give either --category or --all-mail")
    vault = load_settings().vault
    with open_operators() as operators:

        def page_of(category: str | None, *, all_mail: bool) -> Page[Suppression]:
            return whole_page(
                lambda size, after: operators.suppressions(
                    application=application,
                    category=category,
                    all_mail=all_mail,
                    reason=reason,
                    recipient=recipient,
                    vault=vault,
                    limit=size,
                    cursor=after,
                ),
                limit,
                cursor,
            )

        page = page_of(category, all_mail=all_mail)
        for_all_mail = not page.items and category is not None and recipient is not None and cursor is None
        if for_all_mail:
            page = page_of(None, all_mail=True)
    if as_json:
        tell_json(page.as_json())
    elif page.items:
        if for_all_mail:
            tell("no entry for this category, but one for all mail, which applies to it")
        tell_table(
            ("recipient", "application", "category", "reason", "since", "source"),
            [(one.digest, one.application, one.category or "all mail", one.reason, one.at, one.source)
             for one in page.items],
        )  # fmt: skip
        tell_of_more(page)
    elif any((application, category, all_mail, reason, cursor)):
        tell("no entry matches")
    else:
        tell("no recipient is suppressed" if recipient is None else "this recipient is not suppressed")
    if recipient is not None and not page.items and cursor is None:
        raise SystemExit(FAILED)


@suppressions.command("add")
@click.argument("recipients", nargs=-1, required=True, metavar="RECIPIENT...")
@_application
@click.option("--category", metavar="NAME", help="No more mail of this category (default: no mail at all).")
@reason_option(required=True)
@by_option
@dry_run_option("Count what would be added, and change nothing.")
@json_option
def add(
    recipients: tuple[str, ...],
    application: str,
    category: str | None,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add each RECIPIENT: an address, or the digest of one."""
    vault = load_settings().vault
    with open_operators() as operators:
        run = operators.suppress(
            recipients, application=application, category=category, vault=vault, by=by, reason=reason, dry_run=dry_run
        )
        _tell(run, "added", as_json=as_json)


@suppressions.command("remove")
@click.argument("recipients", nargs=-1, required=True, metavar="RECIPIENT...")
@_application
@click.option("--category", metavar="NAME", help="The entry for this category (default: the one for all mail).")
@click.option("--every-category", is_flag=True, help="All entries of the recipient.")
@reason_option(required=True)
@by_option
@dry_run_option("Count what would be removed, and change nothing.")
@json_option
def remove(
    recipients: tuple[str, ...],
    application: str,
    category: str | None,
    every_category: bool,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove each RECIPIENT: an address, or the digest of one. Exit status 1 if none of them is on the list.

    Jobs that ended because of it are sent with: sendq retry --rule suppressed
    """
    vault = load_settings().vault
    with open_operators() as operators:
        run = operators.unsuppress(
            recipients, application=application, category=category, every_category=every_category, vault=vault, by=by,
            reason=reason, dry_run=dry_run,
        )  # fmt: skip
        if not _tell(run, "removed", as_json=as_json):
            complain("none of them is on the list; see: sendq suppressions list --recipient ADDRESS")
            raise SystemExit(FAILED)


@suppressions.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8-sig", errors="strict"))
@_application
@click.option("--delimiter", default=",", show_default=True, help="What separates the columns.")
@reason_option(required=True)
@by_option
@dry_run_option("Check the file and count what would be added, and change nothing.")
@json_option
def import_(file: TextIO, application: str, delimiter: str, reason: str, by: str, dry_run: bool, as_json: bool) -> None:
    """Add the entries of a CSV FILE; - reads stdin.

    Its first line names the columns: address or digest, and any of category, reason, at. If a line is wrong, or
    there is none below it, nothing is added. What `export` writes can be imported into the same ledger.
    """
    vault = load_settings().vault
    with open_operators() as operators:
        try:
            run = operators.import_suppressions(
                file, application=application, delimiter=delimiter, vault=vault, by=by, reason=reason, dry_run=dry_run
            )
        except UnicodeDecodeError:
            raise click.UsageError("FILE is not UTF-8; save it as UTF-8") from None
        _tell(run, "added", as_json=as_json)


@suppressions.command("export")
@_application
def export(application: str) -> None:
    """Write the list of an application as CSV: digests, not addresses."""
    from sendq.suppression_list import written

    vault = load_settings().vault
    with open_operators() as operators:
        name = operators.name_of_suppressions(application, vault=vault)
        csv.writer(sys.stdout, lineterminator="\n").writerows(written(_all(operators, application), name))


def _all(operators: Operators, application: str) -> Iterator[Suppression]:
    cursor = None
    while True:
        page = operators.suppressions(application=application, limit=1_000, cursor=cursor)
        yield from page.items
        if (cursor := page.next) is None:
            return


def _tell(run: Run[SuppressProgress], done: str, *, as_json: bool) -> int:
    """Carry out an act, and say what it did; returns how many entries it changed."""
    with progress_line() as show:
        for part in run:
            show(f"{part.changed:,} of {part.given:,} {done}")
    result = run.finish()
    if as_json:
        tell_json({"application": result.application, "dry_run": result.dry_run, done: result.changed})
    else:
        would = "would be " if result.dry_run else ""
        entries = "1 entry" if result.changed == 1 else f"{result.changed:,} entries"
        tell(f"{entries} {would}{done}, of {counted(result.given, 'recipient')}")
    return result.changed
