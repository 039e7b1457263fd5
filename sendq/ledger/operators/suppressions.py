"""What people and programs do to a suppression list, and its entries page by page."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Row, func, select, tuple_

from sendq.clock import Micros, micros, moment
from sendq.ledger import suppressions
from sendq.ledger.db import schema
from sendq.ledger.reading.paging import cursor, place, walk
from sendq.ledger.secrets import digest_key, stored_digest_key
from sendq.ledger.suppressions import Entry, Name
from sendq.messages.digests import digest_in, is_digest, same_form
from sendq.messages.unsubscribe_token import Token, read, signing_key
from sendq.rules.suppression import ALL_MAIL, Reason
from sendq.suppression_list import Given, list_name
from sendq.vault import Vault
from sendq.views.page import Page
from sendq.views.suppressions import COUNT_MOST, Suppression, SuppressionCount

ONE_CLICK = "one-click"

_ORDER = [schema.suppression.c[name] for name in ("at", "application", "category", "digest")]


def add(
    connection: Connection, given: Sequence[Given], application: str, *, source: str, vault: Vault, now: Micros
) -> int:
    """Add entries; those that exist stay as they are. Returns how many are new.

    Raises `Unreadable` if ``vault`` cannot open the key of the digests.
    """
    key = digest_key(connection, vault)
    return suppressions.add(
        connection,
        [
            Entry(
                application, digest_in(one.recipient, key, application), one.category, one.reason.value,
                now if one.at is None else micros(one.at), source,
            )
            for one in given
        ],
    )  # fmt: skip


def new_ones(connection: Connection, given: Sequence[Given], application: str, *, vault: Vault) -> int:
    """How many of these `add` would add."""
    key = stored_digest_key(connection, vault)
    if key is None:
        return len({(same_form(one.recipient), one.category) for one in given})
    wanted = {(digest_in(one.recipient, key, application), one.category) for one in given}
    there = suppressions.names_of(connection, application, {digest for digest, _ in wanted})
    return len(wanted - {(digest, category) for _, digest, category in there})


def names(
    connection: Connection, given: Sequence[Given], application: str, *, every_category: bool, vault: Vault
) -> list[Name]:
    """The entries of these recipients: of the given category, or of every one."""
    key = _key_for(connection, given, vault)
    if key is None:
        return []
    wanted = {(digest_in(one.recipient, key, application), one.category) for one in given}
    there = suppressions.names_of(connection, application, {digest for digest, _ in wanted})
    return [name for name in there if every_category or name[1:] in wanted]


def remove(connection: Connection, given: Sequence[Given], application: str, *, vault: Vault) -> int:
    """Remove the entries of these recipients and categories; returns how many there were."""
    return suppressions.remove(connection, names(connection, given, application, every_category=False, vault=vault))


def unsubscribe(connection: Connection, token: str, *, vault: Vault, now: Micros) -> bool:
    """Put the person whom a token names on the list of its application and category; False: it is not valid."""
    key = stored_digest_key(connection, vault)
    found = None if key is None else read(signing_key(key), token)
    if found is None:
        return False
    reason = Reason.UNSUBSCRIBED.value
    suppressions.add(connection, [Entry(*_named(found), reason, now, ONE_CLICK)])
    return True


def is_listed(connection: Connection, token: Token) -> bool:
    """Whether the entry that `unsubscribe` would add is on the list."""
    return suppressions.exists(connection, _named(token))


def _named(token: Token) -> Name:
    return token.application, token.digest, token.category


def name_of_list(connection: Connection, application: str, *, vault: Vault) -> str | None:
    """`list_name`; None: this ledger has no digests yet."""
    key = stored_digest_key(connection, vault)
    return None if key is None else list_name(key, application)


def entries(
    connection: Connection,
    *,
    application: str | None = None,
    category: str | None = None,
    reason: str | None = None,
    recipient: Given | None = None,
    vault: Vault,
    after: str | None = None,
    limit: int,
) -> Page[Suppression]:
    """Entries that match every given filter, the latest first. ``category`` "": those for all mail; ``recipient``: in
    every application, if none is given.
    """
    table = schema.suppression.c
    given = ((table.application, application), (table.category, category), (table.reason, reason))
    filters = [column == value for column, value in given if value is not None]
    within = []
    if recipient is not None:
        key = _key_for(connection, [recipient], vault)
        if key is None:
            return Page((), None)
        # Found by the primary key. The digests of an address differ between applications.
        named = [application] if application is not None else suppressions.applications(connection)
        digests = [(one, digest_in(recipient.recipient, key, one)) for one in named]
        within, filters = [*filters, tuple_(table.application, table.digest).in_(digests)], []
    where = place("suppressions", after, int, str, str, bytes)
    rows, last = walk(
        connection, select(schema.suppression), _ORDER, within=within, filters=filters, after=where, limit=limit
    )
    return Page(tuple(_view(row) for row in rows), cursor("suppressions", last))


def counts(connection: Connection) -> list[SuppressionCount]:
    """The latest `COUNT_MOST` entries by application, category and reason; in the order of the first two."""
    table = schema.suppression.c
    some = select(table.application, table.category, table.reason, table.at)
    some = some.order_by(*(column.desc() for column in _ORDER)).limit(COUNT_MOST)
    of = some.subquery().c
    group = (of.application, of.category, of.reason)
    query = select(*group, func.count(), func.min(of.at), func.max(of.at)).group_by(*group)
    rows = sorted(connection.execute(query).all(), key=lambda row: (row[0], row[1], -row[3], row[2]))
    return [
        SuppressionCount(row[0], None if row[1] == ALL_MAIL else row[1], row[2], row[3], moment(row[4]), moment(row[5]))
        for row in rows
    ]


def digest_of(connection: Connection, given: Given, application: str, *, vault: Vault) -> str | None:
    """The digest of a recipient in an application; None: this ledger has no digests yet."""
    key = _key_for(connection, [given], vault)
    return None if key is None else digest_in(given.recipient, key, application).hex()


def _key_for(connection: Connection, given: Sequence[Given], vault: Vault) -> bytes | None:
    """The key of the digests, for those who give addresses; digests need none, so that they are found without one."""
    return b"" if all(is_digest(one.recipient) for one in given) else stored_digest_key(connection, vault)


def _view(row: Row[tuple[object, ...]]) -> Suppression:
    return Suppression(
        row.application, bytes(row.digest).hex(), None if row.category == ALL_MAIL else row.category, row.reason,
        moment(row.at), row.source,
    )  # fmt: skip
