"""Look up a recipient: the address comes in the body of a form, so that no address of a page or log has it."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from sendq.console.asked import Asked
from sendq.console.pages.suppressions import recipient
from sendq.console.serving import Endpoint, Refused, form_of, require_own


class LookUp(Endpoint):
    """Whether and why a recipient is suppressed."""

    async def answer(self, request: Request, asked: Asked) -> Response:
        form = await form_of(request)
        require_own(self.desk, request, asked.person, form)
        given, application = form.get("recipient", "").strip(), form.get("application", "").strip() or None
        if not given:
            raise Refused(400, "Not understood", "Give the address of a recipient, or its digest.")
        view = await run_in_threadpool(recipient, self.desk, asked, given, application)
        return HTMLResponse(self.desk.render(view, asked), view.status)
