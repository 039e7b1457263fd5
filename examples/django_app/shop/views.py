"""The shop's pages."""

from __future__ import annotations

from collections.abc import Sequence

from django import forms
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.views.decorators.http import require_POST, require_safe

from sendq import InvalidJob, KeyConflict, LedgerUnavailable, Message, Retryable, SendQueue

from .models import Invoice

queue = SendQueue(settings.SHOP_LEDGER)


class Bill(forms.Form):
    """What one has to say for an invoice."""

    number = forms.IntegerField()
    email = forms.CharField(label="To")  # sendq looks at the address, and says what is wrong with it
    amount = forms.IntegerField(label="Amount in €")


@require_safe
def invoices(request: HttpRequest) -> HttpResponse:
    """The form, and all invoices."""
    return _list(request, Bill())


@require_POST
def bill(request: HttpRequest) -> HttpResponse:
    """Store the invoice and enqueue its mail: both or neither."""
    form = Bill(request.POST)
    if not form.is_valid():
        return _list(request, form, status=422)
    number, email, amount = (form.cleaned_data[name] for name in ("number", "email", "amount"))
    message = Message(to=[email], subject=f"Invoice {number}", body=f"<p>Please pay {amount} €.</p>")
    try:
        with transaction.atomic():
            job = queue.send(
                settings.SHOP_GRANT,
                message,
                key=f"invoice-{number}",
                on_outcome="shop.tasks.mail_outcome@shop",
                session=connection,
            )
            Invoice.objects.create(number=number, email=email, amount=amount, job_id=job.id)
    except InvalidJob as wrong:
        problems = [f"{problem.field} {problem.reason}: {problem.remedy}" for problem in wrong.problems]
        return _list(request, form, problems, status=422)
    except (KeyConflict, IntegrityError):
        return _list(request, form, ["That number is taken, or the amount is not above zero."], status=409)
    except (Retryable, LedgerUnavailable):
        return _list(request, form, ["The database is busy; please try again."], status=503)
    return redirect("invoice", number=number)


@require_safe
def invoice(request: HttpRequest, number: int) -> HttpResponse:
    """One invoice: where its mail is, why, and until when."""
    found = get_object_or_404(Invoice, number=number)
    why, job = queue.why(str(found.job_id)), queue.job(str(found.job_id))
    return render(request, "page.html", {"invoice": found, "why": why, "job": job})


def _list(request: HttpRequest, form: Bill, problems: Sequence[str] = (), status: int = 200) -> HttpResponse:
    shown = {"invoices": Invoice.objects.order_by("number"), "form": form, "problems": problems}
    return render(request, "page.html", shown, status=status)


urlpatterns = [
    path("", invoices, name="invoices"),
    path("invoices", bill, name="bill"),
    path("invoices/<int:number>", invoice, name="invoice"),
]
