"""A shop on FastAPI: each invoice and its mail are accepted in one transaction, through an async session.

It reads three variables: SHOP_DATABASE (the address of the database, with a driver for asyncio), SHOP_GRANT (the grant
that mails invoices) and SHOP_OUTCOME_SECRET (what signs outcomes; the workers have the same as SENDQ_OUTCOME_SECRET).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from sqlalchemy import BigInteger, CheckConstraint, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sendq import AsyncSendQueue, InvalidJob, KeyConflict, LedgerUnavailable, Message, Retryable
from sendq.outcomes import BadOutcome, verify

GRANT = os.environ["SHOP_GRANT"]
SECRET = os.environ["SHOP_OUTCOME_SECRET"]

# Errors of statements quote no parameters: a customer's address has no place in a log.
engine = create_async_engine(os.environ["SHOP_DATABASE"], hide_parameters=True)
queue = AsyncSendQueue(engine)
templates = Jinja2Templates(Path(__file__).parent)


class Base(DeclarativeBase):
    """The shop's own tables; those of sendq are beside them, in the same database."""


class Invoice(Base):
    """An invoice, the job that mails it, and the last outcome received for it."""

    __tablename__ = "shop_invoice"
    __table_args__ = (CheckConstraint("amount > 0"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    email: Mapped[str]
    amount: Mapped[int]
    job_id: Mapped[str]
    outcome: Mapped[str | None]
    sequence: Mapped[int] = mapped_column(BigInteger, default=0)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The shop's tables at the start; at the end, the pool of connections."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await queue.close()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def invoices(request: Request, problems: tuple[str, ...] = (), status: int = 200) -> Response:
    """The form, and all invoices."""
    async with AsyncSession(engine) as session:
        found = (await session.scalars(select(Invoice).order_by(Invoice.number))).all()
    return page(request, status=status, invoices=found, problems=problems)


@app.post("/invoices")
async def bill(
    request: Request,
    number: Annotated[int, Form()],
    email: Annotated[str, Form()],
    amount: Annotated[int, Form()],
) -> Response:
    """Store the invoice and enqueue its mail: both or neither."""
    message = Message(to=[email], subject=f"Invoice {number}", body=f"<p>Please pay {amount} €.</p>")
    try:
        async with AsyncSession(engine) as session, session.begin():
            job = await queue.send(GRANT, message, key=f"invoice-{number}", on_outcome="webhook:shop", session=session)
            session.add(Invoice(number=number, email=email, amount=amount, job_id=job.id))
    except InvalidJob as wrong:
        problems = tuple(f"{problem.field} {problem.reason}: {problem.remedy}" for problem in wrong.problems)
        return await invoices(request, problems, status=422)
    except (KeyConflict, IntegrityError):
        return await invoices(request, ("That number is taken, or the amount is not above zero.",), status=409)
    except (Retryable, LedgerUnavailable):
        return await invoices(request, ("The database is busy; please try again.",), status=503)
    return RedirectResponse(f"/invoices/{number}", status_code=303)


@app.get("/invoices/{number}")
async def invoice(request: Request, number: int) -> Response:
    """One invoice: where its mail is, why, and until when."""
    async with AsyncSession(engine) as session:
        found = await session.get(Invoice, number)
    if found is None:
        return page(request, status=404, problems=["There is no such invoice."])
    return page(request, invoice=found, why=await queue.why(found.job_id), job=await queue.job(found.job_id))


@app.post("/outcomes")
async def outcome(request: Request) -> Response:
    """Receive the outcome of a mail. It may be delivered twice; the second time changes nothing."""
    try:
        event = verify(await request.body(), request.headers, secret=SECRET)
    except BadOutcome:
        return Response(status_code=400)
    newer = (Invoice.job_id == event.get("job_id")) & (Invoice.sequence < event["sequence"])
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(update(Invoice).where(newer).values(outcome=event["kind"], sequence=event["sequence"]))
    return Response(status_code=204)


def page(request: Request, *, status: int = 200, **shown: Any) -> Response:
    """The only page there is, with what is to be shown on it."""
    return templates.TemplateResponse(request, "page.html", shown, status_code=status)
