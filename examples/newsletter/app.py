"""A newsletter on Flask: rows are pasted, merged and mailed as one batch; a page shows its progress, and cancels it.

It reads two variables: NEWSLETTER_LEDGER (the address of the ledger) and NEWSLETTER_GRANT (the grant that mails).
"""

from __future__ import annotations

import csv
import os

from flask import Flask, redirect, render_template_string, request, url_for
from flask.typing import ResponseReturnValue

from sendq import InvalidJob, KeyConflict, Message, NewBatch, NotFound, SendQueue

GRANT = os.environ["NEWSLETTER_GRANT"]

queue = SendQueue(os.environ["NEWSLETTER_LEDGER"])
app = Flask(__name__)

FORM = """<!doctype html><html lang="en"><title>Newsletter</title><h1>Newsletter</h1>
{% for problem in problems %}<p role="alert">{{ problem }}</p>{% endfor %}
<form method="post">
<p><label>Issue <input name="issue" required></label></p>
<p><label>Subject <input name="subject" value="{% raw %}News for {{first_name}}{% endraw %}" required></label></p>
<p><label>Text <textarea name="body" required></textarea></label></p>
<p><label>Readers: email,first_name <textarea name="readers" rows="10" required></textarea></label></p>
<button>Send</button></form></html>"""

PROGRESS = """<!doctype html><html lang="en"><title>{{ "%.0f" | format(100 * batch.progress) }} %</title>
{% if not batch.finished_at %}<meta http-equiv="refresh" content="2">{% endif %}<h1>Newsletter</h1>
<progress value="{{ batch.progress }}"></progress>
<p id="progress">{{ batch.waiting }} of {{ batch.total }} wait; {{ "%.1f" | format(batch.rate) }} a second</p>
{% for state, number in batch.counts.items() %}<p id="{{ state.value }}">{{ number }} {{ state.value }}</p>{% endfor %}
{% for error in batch.errors %}<p>{{ error.rule }}: {{ error.error }}</p>{% endfor %}
{% if batch.finished_at %}<p id="end">Ended {{ batch.finished_at }}</p>
{% elif batch.cancelled_at %}<p id="end">Being cancelled</p>
{% else %}<p>Expected end: {{ batch.eta or "unknown" }}</p>
<form method="post" action="{{ url_for('cancel', batch_id=batch.id) }}"><button>Cancel</button></form>
{% endif %}</html>"""


@app.get("/")
def form(problems: tuple[str, ...] = ()) -> str:
    """What to send, and to whom."""
    return render_template_string(FORM, problems=problems)


@app.post("/")
def send() -> ResponseReturnValue:
    """Merge and enqueue: all messages or none. The issue is the batch's key, so that a second click changes nothing."""
    given = request.form
    rows = csv.DictReader(given["readers"].strip().splitlines(), fieldnames=["email", "first_name"])
    message = Message(subject=given["subject"], body=given["body"])
    batch = NewBatch(key=f"newsletter-{given['issue']}", tags={"kind": "newsletter"})
    try:
        made = queue.mail_merge(GRANT, message, rows, batch=batch, priority="low")
    except InvalidJob as wrong:
        return form(tuple(f"{problem.field} {problem.reason}: {problem.remedy}" for problem in wrong.problems)), 422
    except KeyConflict:
        return form(("This issue was sent with other readers or another text.",)), 409
    return redirect(url_for("progress", batch_id=made.id), code=303)


@app.get("/batches/<batch_id>")
def progress(batch_id: str) -> ResponseReturnValue:
    """How far it has come; refreshed until it has ended."""
    try:
        return render_template_string(PROGRESS, batch=queue.batch(batch_id))
    except NotFound:
        return "There is no such newsletter.", 404


@app.post("/batches/<batch_id>/cancel")
def cancel(batch_id: str) -> ResponseReturnValue:
    """Nothing more of it is sent once this is committed."""
    queue.cancel_batch(batch_id)
    return redirect(url_for("progress", batch_id=batch_id), code=303)
