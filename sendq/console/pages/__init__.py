"""The pages that are read, by their addresses. Each is a function of what is asked; it runs in a thread."""

from __future__ import annotations

from sendq.console.pages.accounts import account, accounts
from sendq.console.pages.batches import batch, batches
from sendq.console.pages.dead import dead
from sendq.console.pages.doubts import doubts
from sendq.console.pages.jobs import job, jobs
from sendq.console.pages.journal import journal
from sendq.console.pages.now import now
from sendq.console.pages.outcomes import outcomes
from sendq.console.pages.search import search
from sendq.console.pages.suppressions import suppressions
from sendq.console.serving import PageFunction

PAGES: dict[str, PageFunction] = {
    "/": now,
    "/accounts": accounts,
    "/accounts/{application}/{grant}": account,
    "/jobs": jobs,
    "/jobs/{job}": job,
    "/dead": dead,
    "/batches": batches,
    "/batches/{batch}": batch,
    "/doubts": doubts,
    "/outcomes": outcomes,
    "/suppressions": suppressions,
    "/journal": journal,
    "/search": search,
}
