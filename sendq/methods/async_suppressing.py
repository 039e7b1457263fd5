"""The methods of `AsyncSendQueue` for suppressed recipients, and for people who unsubscribe."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.util import await_only  # asyncio only

from sendq import changes, clock
from sendq.ledger.db.async_transactions import AsyncTransactions
from sendq.ledger.operators import suppressions as lists
from sendq.ledger.secrets import digest_key, stored_digest_key
from sendq.ledger.suppressing import Enqueuer
from sendq.messages.unsubscribe import Links, link_to
from sendq.scope import DEFAULT_APPLICATION
from sendq.suppression_list import checked
from sendq.vault import Vault
from sendq.views.suppressions import Suppression


class AsyncSuppressing:
    """See the module."""

    _ledger: AsyncTransactions
    _now: clock.Clock
    _vault: Vault
    _enqueuer: Enqueuer
    _unsubscribe_url: str | None
    _links: Links | None

    async def suppress(
        self,
        recipient: str,
        *,
        category: str | None = None,
        application: str = DEFAULT_APPLICATION,
        source: str = changes.PROGRAM,
        session: Any = None,
    ) -> bool:
        """Put a recipient, an address or the digest of one, on the suppression list; False: it is on it already.

        ``category``: no more mail of it; None: no mail at all. ``source``: shown with the entry.
        """
        given, vault, now = checked([recipient], category), self._vault, self._now()
        act = partial(lists.add, given=given, application=application, source=source, vault=vault, now=now)
        self._enqueuer.forget_what_is_remembered()
        return await self._ledger.write(session, act) > 0

    async def unsuppress(
        self,
        recipient: str,
        *,
        category: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> bool:
        """Remove a recipient from the suppression list: the entry of a category, or (None) the one for all mail.

        False: there is none. Jobs that ended because of it can be retried. With the database roles of
        ``deploy/roles.sql``, this needs ``sendq_worker``.
        """
        act = partial(lists.remove, given=checked([recipient], category), application=application, vault=self._vault)
        return await self._ledger.write(session, act) > 0

    async def suppressions(
        self, recipient: str, *, application: str = DEFAULT_APPLICATION, session: Any = None
    ) -> tuple[Suppression, ...]:
        """The entries of a recipient, an address or the digest of one. `Operators.suppressions` lists all of them."""
        (given,) = checked([recipient], None)
        query = partial(lists.entries, application=application, recipient=given, vault=self._vault, limit=1_000)
        return (await self._ledger.read(query, session)).items

    async def unsubscribe_url(
        self, recipient: str, category: str, *, application: str = DEFAULT_APPLICATION, session: Any = None
    ) -> str:
        """The link with which a recipient unsubscribes from a category, for the text of a message.

        It is that of ``Message(unsubscribe=…)``. Raises `InvalidArgument`, and ``ValueError`` without an endpoint.
        """
        checked([recipient], category)
        if self._unsubscribe_url is None:
            raise ValueError("unsubscribe_url: the queue has none; pass it to the queue")
        token = (await self._links_for(session)).token(application, category, recipient)
        return link_to(self._unsubscribe_url, token)

    async def unsubscribe(self, token: str, *, session: Any = None) -> bool:
        """Put the person whom the token of a link names on the list of its category; False: the token is not valid.

        For an endpoint of your own; `sendq.webhooks` has one. Safe to repeat.
        """
        act = partial(lists.unsubscribe, token=token, vault=self._vault, now=self._now())
        self._enqueuer.forget_what_is_remembered()
        return await self._ledger.write(session, act)

    async def _links_for(self, session: Any) -> Links:
        """Makes unsubscribe links. Only a committed key is kept: one that is rolled back would make links to nowhere.

        On SQLite another transaction than the caller's would wait for it, and it for that.
        """
        if self._links is None:
            in_callers = session is not None and self._ledger.engine.dialect.name == "sqlite"
            made = partial(digest_key, vault=self._vault)
            key = await self._ledger.write(session if in_callers else None, made)
            if in_callers:
                return Links(key, self._unsubscribe_url)
            self._links = Links(key, self._unsubscribe_url)
        return self._links

    def _links_within(self, connection: Connection) -> Links:
        """`_links_for` the messages of a batch, which are read in its transaction."""
        if self._links is not None:
            return self._links
        made = partial(digest_key, vault=self._vault)
        key = stored_digest_key(connection, self._vault)
        if key is None and connection.dialect.name != "sqlite":
            # Once in the life of a ledger, so that no one else who needs it waits for this transaction.
            key = await_only(self._ledger.write(None, made))
        return Links(key or made(connection), self._unsubscribe_url)
