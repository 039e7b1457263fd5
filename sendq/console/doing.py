"""Acts: first what one would do, then (with a reason) carrying it out, and a page with its progress."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sendq.console.acts import ACTS, Act, Given, Preview
from sendq.console.acts.act import with_period
from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.runs import Run, RunState, TooManyRuns
from sendq.console.serving import Endpoint, Page, Refused, form_of, invalid, require_own
from sendq.errors import InvalidArgument, NotFound

# Refusals of one person that are recorded in a row; a script that tries on would fill the journal.
RECORDED_MOST = 100

NOT_ALLOWED = "Only operators may act, and you are a viewer. Ask an operator."


class Acting(Endpoint):
    """One act. GET shows what it would do; POST does it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._refused: Counter[str] = Counter()

    async def answer(self, request: Request, asked: Asked) -> Response:
        act = ACTS.get(asked.values["act"])
        if act is None:
            raise NotFound("there is no such act")
        if request.method == "GET":
            if not asked.person.acts:
                raise Refused(403, "Not allowed", NOT_ALLOWED)
            return await run_in_threadpool(self._preview, act, asked, asked.query)
        form = await form_of(request, most=act.form_most if asked.person.acts else None)
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
                if preview.possible:
                    act.check(self.desk.operators, given)
                self._carry_out(act, asked, given, preview, identity)
            except InvalidArgument as error:
                return self._preview(act, asked, form, invalid(error), 422)
        return RedirectResponse(asked.url("runs", identity), 303)

    def _given(self, values: Mapping[str, str], asked: Asked, reason: str) -> Given:
        return Given(values, asked.person.name, reason, self.desk.vault, self.desk.queue)

    def _carry_out(self, act: Act, asked: Asked, given: Given, preview: Preview, identity: str) -> None:
        if not 8 <= len(identity) <= 64 or not identity.replace("-", "").replace("_", "").isalnum():
            raise Refused(400, "Not a form", "This is not a form of the console.")
        run = Run(identity, preview.what, asked.person.name, given.reason, asked.url(*preview.back))
        try:
            self.desk.runs.begin(run, lambda: act.steps(self.desk.operators, given))
        except TooManyRuns:
            says = "Eight acts are being carried out by this console. Wait for one to end, or stop it."
            raise Refused(503, "Too many acts", says) from None

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
