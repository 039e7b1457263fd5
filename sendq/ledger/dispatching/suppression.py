"""Suppressed recipients at the claim: a job may have waited while one of its recipients bounced or unsubscribed.

It costs two queries for the jobs of a claim, and only where an application has a suppression list: whether one has,
comes with a query that each claim makes anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection

from sendq.errors import Unreadable
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ledger import suppressions
from sendq.ledger.contents import chunk_of, pieces_of
from sendq.ledger.secrets import stored_digest_key
from sendq.messages.content import chunk_count
from sendq.messages.digests import digest_of
from sendq.messages.recipients import Recipients, recipients_in, text_of
from sendq.messages.unsubscribe_token import category_of, signing_key
from sendq.rules.suppression import blocking_reason
from sendq.vault import Vault


class Suppression:
    """The check of the jobs of one claim: those of ``applications``, which have a suppression list."""

    def __init__(self, connection: Connection, vault: Vault, applications: Collection[str]) -> None:
        self._connection, self._vault, self._applications = connection, vault, applications
        self._key: bytes | None = None

    def open_key(self, job: ClaimedJob, application: str) -> None:
        """Raise `Unreadable` if this vault cannot open the key of the digests: without it the application's mail
        cannot be checked.
        """
        if self._key is None and job.operation == "send" and application in self._applications:
            self._key = stored_digest_key(self._connection, self._vault)

    def suppressed(self, lanes: Mapping[UUID, Lane], jobs: Mapping[UUID, Sequence[ClaimedJob]]) -> list[ClaimedJob]:
        """Those of these (opened) jobs that have a suppressed recipient."""
        if self._key is None:  # no mail among them
            return []
        by_application: dict[str, list[tuple[ClaimedJob, Recipients]]] = {}
        for lane_id, some in jobs.items():
            if lanes[lane_id].application not in self._applications:
                continue
            mails = [(job, self._recipients(job)) for job in some if job.operation == "send"]
            by_application.setdefault(lanes[lane_id].application, []).extend(mails)
        found: list[ClaimedJob] = []
        for application, mails in by_application.items():
            found += self._of(application, mails, self._key)
        return found

    def _of(self, application: str, mails: Iterable[tuple[ClaimedJob, Recipients]], key: bytes) -> Iterable[ClaimedJob]:
        digests = {job.id: [digest_of(key, application, one) for _, one in people.named] for job, people in mails}
        wanted = {digest for some in digests.values() for digest in some}
        listed = suppressions.entries_of(self._connection, application, wanted)
        if not listed:
            return
        for job, people in mails:
            category = category_of(signing_key(key), people.unsubscribe, application)
            if any(blocking_reason(listed.get(one, ()), category) is not None for one in digests[job.id]):
                yield job

    def _recipients(self, job: ClaimedJob) -> Recipients:
        """None if they cannot be read: the request cannot be made either, and the policy ends such a job."""
        try:
            text = text_of(job.form, job.body)
            return self._recipients_of_content(job) if text is None else recipients_in(job.form, text)
        except (Unreadable, ValueError, LookupError, TypeError):
            return Recipients([], [])

    def _recipients_of_content(self, job: ClaimedJob) -> Recipients:
        first = pieces_of(self._connection, job.id, vault=self._vault)[0]
        text = chunk_of(self._connection, first, 0, vault=self._vault) or b""
        try:
            return recipients_in(job.form, text)
        except ValueError:  # thousands of recipients: more than the first chunk has
            rest = range(1, chunk_count(first.size))
            chunks = (chunk_of(self._connection, first, position, vault=self._vault) or b"" for position in rest)
            return recipients_in(job.form, b"".join((text, *chunks)))
