"""Replace the message of a send that waits. What is stored of it is never shown; the new one is entered as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from sendq.console.acts.act import Act, Choice, Given, Preview, count
from sendq.console.acts.jobs import job_page
from sendq.console.runs import Facts
from sendq.console.texts import absolute
from sendq.errors import InvalidArgument, InvalidJob, NotFound, NotWaiting, Problem, Unreadable
from sendq.messages.forms import MAX_JSON_BYTES
from sendq.messages.from_json import message_from_json
from sendq.operators import Operators
from sendq.views import Replacement

REFUSE, DROP = "refuse", "drop"

NO_QUEUE = "This console cannot replace messages: it was made without a queue. Use sendq replace."


class Replace(Act):
    """Give a job another message, if it still has the content version that the person has seen."""

    name = "replace"
    fields = ("job", "content")
    # A message that Nylas takes as JSON, as a form writes it: three bytes for most characters of HTML.
    form_most = 3 * MAX_JSON_BYTES
    too_large = "Use `sendq replace JOB --message FILE`."
    choices = (
        Choice("message", "New message", long=True, required=True,
               hint='JSON with all of its fields, like {"to": ["ann@example.com"], "subject": "…", "body": "…"}'),
        Choice("suppressed", "Suppressed recipients",
               ((REFUSE, "Refuse the message"), (DROP, "Send to the others")), value=REFUSE),
    )  # fmt: skip

    def preview(self, operators: Operators, given: Given) -> Preview:
        """Whether it can be replaced, and which content version that would replace: the one that the page names. If it
        changed while the new message was written, the form keeps the text, says so, and takes the present version.
        """
        job_id = given.get("job")
        if job_id is None:
            raise NotFound("this address names no job")
        job, warnings = operators.job(job_id), list[str]()
        content, others = given.content, list[str]()
        if given.queue is None:
            warnings.append(NO_QUEUE)
        if job.operation != "send":
            warnings.append("It is not a send: cancel it, and enqueue another change instead.")
        elif content not in (None, job.content_version):
            says = f"Its content is another one: version {job.content_version}, not {content}."
            if given.get("message") is None:
                warnings.append(says)
            else:
                others.append(f"{says} To replace that one with your message, send this form again.")
        try:
            # What may be held may be replaced. Nothing is changed.
            operators.hold_job(job_id, by=given.by, reason="-", dry_run=True).finish()
        except NotWaiting as error:
            warnings.append(f"{str(error).removesuffix('; nothing was changed')}.")
        again = [("Approval", "waits for it again")] if job.approved_at is not None else []
        return Preview(
            what="Replace the message of a job",
            button="Replace the message",
            facts=[("Due", absolute(job.due_at)), ("Content version now", str(job.content_version)), *again],
            back=job_page(job_id),
            warnings=[*warnings, *others],
            possible=not warnings,
            choices=self.choices,
            fixed={"content": str(job.content_version)},
        )

    def check(self, operators: Operators, given: Given) -> None:
        """Try it."""
        try:
            self._replace(given, dry_run=True)
        except NotWaiting as error:
            because = str(error).removeprefix(f"the job {error.id} ").removesuffix("; nothing was changed")
            raise InvalidArgument([Problem("job", because, "nothing was changed")]) from None
        except Unreadable:
            reason = "cannot be replaced here: the ledger is encrypted, and the console does not have its key"
            raise InvalidArgument([Problem("message", reason, "use sendq replace where workers run")]) from None

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """One step."""
        job = self._replace(given, dry_run=False)
        dropped = (("Left out", count(len(job.dropped), "suppressed recipient")),) if job.dropped else ()
        already = "" if job.replaced else ": it had this message already"
        yield ("Content version", f"{job.content_version}{already}"), *dropped

    def _replace(self, given: Given, *, dry_run: bool) -> Replacement:
        queue, content = given.queue, given.content
        if queue is None:
            raise NotFound(NO_QUEUE)
        if content is None:
            raise NotFound("this form names no content version; open it from the page of the job")
        try:
            message = message_from_json((given.get("message") or "").encode(errors="surrogatepass"))
            return queue.replace(
                given.get("job") or "", message, content=content, suppressed=given.get("suppressed") or REFUSE,
                by=given.by, reason=given.reason, dry_run=dry_run,
            )  # fmt: skip
        except InvalidJob as wrong:
            raise InvalidArgument([problem.under("message") for problem in wrong.problems]) from None
