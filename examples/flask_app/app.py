"""A shop on Flask: each invoice and its mail are accepted in one transaction, through a SQLAlchemy session.

It reads three variables: SHOP_DATABASE (the address of the database), SHOP_GRANT (the grant that mails invoices) and
SHOP_OUTCOME_SECRET (what signs outcomes; the workers have the same as SENDQ_OUTCOME_SECRET).
"""

from __future__ import annotations

import os

from flask import Flask, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import BigInteger, CheckConstraint, create_engine, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sendq import InvalidJob, KeyConflict, LedgerUnavailable, Message, Retryable, SendQueue
from sendq.outcomes import BadOutcome, verify

GRANT = os.environ["SHOP_GRANT"]
SECRET = os.environ["SHOP_OUTCOME_SECRET"]

# Errors of statements quote no parameters: a customer's address has no place in a log.
engine = create_engine(os.environ["SHOP_DATABASE"], hide_parameters=True)
queue = SendQueue(engine)
app = Flask(__name__)


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


Base.metadata.create_all(engine)


@app.get("/")
def invoices(problems: tuple[str, ...] = ()) -> str:
    """The form, and all invoices."""
    with Session(engine) as session:
        found = session.scalars(select(Invoice).order_by(Invoice.number)).all()
    return render_template("page.html", invoices=found, problems=problems)


@app.post("/invoices")
def bill() -> ResponseReturnValue:
    """Store the invoice and enqueue its mail: both or neither."""
    email = request.form["email"]
    try:
        number, amount = int(request.form["number"]), int(request.form["amount"])
    except ValueError:
        return invoices(("Number and amount are written in digits.",)), 422
    message = Message(to=[email], subject=f"Invoice {number}", body=f"<p>Please pay {amount} €.</p>")
    try:
        with Session(engine) as session, session.begin():
            job = queue.send(GRANT, message, key=f"invoice-{number}", on_outcome="webhook:shop", session=session)
            session.add(Invoice(number=number, email=email, amount=amount, job_id=job.id))
    except InvalidJob as wrong:
        return invoices(tuple(f"{problem.field} {problem.reason}: {problem.remedy}" for problem in wrong.problems)), 422
    except (KeyConflict, IntegrityError):
        return invoices(("That number is taken, or the amount is not above zero.",)), 409
    except (Retryable, LedgerUnavailable):
        return invoices(("The database is busy; please try again.",)), 503
    return redirect(url_for("invoice", number=number), code=303)


@app.get("/invoices/<int:number>")
def invoice(number: int) -> str:
    """One invoice: where its mail is, why, and until when."""
    with Session(engine) as session:
        found = session.get(Invoice, number)
    if found is None:
        abort(404)
    return render_template("page.html", invoice=found, why=queue.why(found.job_id), job=queue.job(found.job_id))


@app.post("/outcomes")
def outcome() -> ResponseReturnValue:
    """Receive the outcome of a mail. It may be delivered twice; the second time changes nothing."""
    try:
        event = verify(request.get_data(), dict(request.headers), secret=SECRET)
    except BadOutcome:
        return "", 400
    newer = (Invoice.job_id == event.get("job_id")) & (Invoice.sequence < event["sequence"])
    with Session(engine) as session, session.begin():
        session.execute(update(Invoice).where(newer).values(outcome=event["kind"], sequence=event["sequence"]))
    return "", 204
