"""Acts: first what one would do, then (with a reason) carrying it out, and a page with its progress."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sendq.console import serving
from sendq.console.acts import ACTS, Act, Given, Preview
from sendq.console.acts.act import with_period
from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.runs import Run, RunState, TooManyRuns
from sendq.console.serving import Endpoint, Page, Refused, explained, form_of, is_large, require_own
from sendq.errors import InvalidArgument, NotFound, SendqError

# Refusals of one person that are recorded in a row; a script that tries on would fill the journal.
RECORDED_MOST = 100

NOT_ALLOWED = "Only operators may act, and you are a viewer. Ask an operator."


class Acting(Endpoint):
    """One act. GET shows what it would do; POST does it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._refused: Counter[str] = Counter()
        self._large = asyncio.Lock()  # one large form at a time: each takes a multiple of its size in memory

    async def answer(self, request: Request, asked: Asked) -> Response:
        act = ACTS.get(asked.values["act"])
        if act is None:
            raise NotFound("there is no such act")
        if request.method == "GET":
            if not asked.person.acts:
                raise Refused(403, "Not allowed", NOT_ALLOWED)
            # Only what the act concerns comes in an address; the rest is entered by the person who signs for it.
            concerns = {name: value for name, value in asked.query.items() if name in act.fields}
            return await run_in_threadpool(self._preview, act, asked, concerns)
        if act.form_most is None or not asked.person.acts or not is_large(request):
            return await self._sent(request, act, asked, most=None)
        async with self._turn():
            return await self._sent(request, act, asked, most=act.form_most)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """While one large form is read and answered, others wait unread."""
        try:
            async with asyncio.timeout(serving.LARGE_FORM_S):
                await self._large.acquire()
        except TimeoutError:
            says = "Another large form is being read. Nothing was changed. Send it again."
            raise Refused(503, "Busy", says) from None
        try:
            yield
        finally:
            self._large.release()

    async def _sent(self, request: Request, act: Act, asked: Asked, *, most: int | None) -> Response:
        form = await form_of(request, most=most, too_large=act.too_large)
        require_own(self.desk, request, asked.person, form)
        if not asked.person.acts:
            await run_in_threadpool(self._record_refusal, act, asked)
            raise Refused(403, "Not allowed", f"{NOT_ALLOWED} The attempt is recorded in the journal.")
        return await run_in_threadpool(self._begin, act, asked, form)

    def _preview(
        self, act: Act, asked: Asked, values: Mapping[str, str], error: str | None = None, status: int = 200
    ) -> Response:
        values = with_period(act, values, asked.now)
        preview = act.preview(self.desk.operators, self._given(values, asked, "-"))
        view = {
            "act": act,
            "preview": preview,
            "given": {**values, **preview.fixed},
            "id": secrets.token_urlsafe(12),
            "error": error,
            "back": asked.url(*preview.back),
        }
        return HTMLResponse(self.desk.render(View("act.html", view), asked), status)

    def _begin(self, act: Act, asked: Asked, form: Mapping[str, str]) -> Response:
        given = self._given(form, asked, form.get("reason", "").strip())
        if not given.reason:
            return self._preview(act, asked, form, "Give a reason: it is recorded with your name.", 422)
        identity = form.get("id", "")
        if self.desk.runs.get(identity) is None:
            try:
                preview = act.preview(self.desk.operators, given)
                act.check(self.desk.operators, given)
                self._carry_out(act, asked, given, preview, identity)
            except SendqError as error:  # the form is shown again, with what was entered
                status, _, says = explained(error)
                return self._preview(act, asked, form, says, 422 if isinstance(error, InvalidArgument) else status)
            except TooManyRuns:
                says = "Eight acts are being carried out by this console. Wait for one to end, or stop it."
                return self._preview(act, asked, form, says, 503)
        return RedirectResponse(asked.url("runs", identity), 303)

    def _given(self, values: Mapping[str, str], asked: Asked, reason: str) -> Given:
        return Given(values, asked.person.name, reason, self.desk.vault, self.desk.queue)

    def _carry_out(self, act: Act, asked: Asked, given: Given, preview: Preview, identity: str) -> None:
        if not 8 <= len(identity) <= 64 or not identity.replace("-", "").replace("_", "").isalnum():
            raise Refused(400, "Not a form", "This is not a form of the console.")
        run = Run(identity, preview.what, asked.person.name, given.reason, asked.url(*preview.back))
        self.desk.runs.begin(run, lambda: act.steps(self.desk.operators, given))

    def _record_refusal(self, act: Act, asked: Asked) -> None:
        name = asked.person.name
        self._refused[name] += 1
        if self._refused[name] <= RECORDED_MOST:
            self.desk.operators.record_refusal(act.name, by=name, reason="a viewer of the console may not act")


class Progress(Page):
    """How far an act is; its page moves on by itself."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk, _progress)


class Stop(Endpoint):
    """Stop an act after its current step. What it has done is kept."""

    async def answer(self, request: Request, asked: Asked) -> Response:
        require_own(self.desk, request, asked.person, await form_of(request))
        if not asked.person.acts:
            raise Refused(403, "Not allowed", NOT_ALLOWED)
        run = self.desk.runs.get(asked.values["run"])
        if run is not None:
            run.asked_to_stop.set()
            await run_in_threadpool(run.ended.wait, 1.0)
        return RedirectResponse(asked.url("runs", asked.values["run"]), 303)


def _progress(desk: Desk, asked: Asked) -> View:
    run = desk.runs.get(asked.values["run"])
    if run is None:
        raise NotFound(
            "this console knows no such act: it has been restarted since, or another process carried it out; "
            "the journal has every act"
        )
    return View(
        "run.html", {"run": run, "working": run.state is RunState.WORKING, "live": run.state is RunState.WORKING}
    )
