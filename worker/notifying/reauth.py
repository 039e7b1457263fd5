"""Where a person signs in again."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from settings import Settings


def reauth_url(settings: Settings, application: str, grant_id: str, *, login_hint: str | None = None) -> str | None:
    """The address that brings a grant's owner back; None if neither a page nor a client id is configured.

    ``SENDQ_REAUTH_URL`` is the application's own page. Else it is Nylas's hosted authentication: run again for the same
    address it keeps the grant's id ("Hosted authentication", ``GET /v3/connect/auth``). The ledger knows no address
    of the account, so ``login_hint`` and ``redirect_uri`` are the caller's to fill in.
    """
    if settings.reauth_url is not None:
        fields = {"{grant_id}": grant_id, "{application}": application}
        url = settings.reauth_url
        for name, value in fields.items():
            url = url.replace(name, quote(value, safe=""))
        return url
    known = settings.applications.get(application)
    if known is None or known.client_id is None:
        return None
    query = {"client_id": known.client_id, "response_type": "code", "access_type": "offline", "state": grant_id}
    if login_hint is not None:
        query["login_hint"] = login_hint
    return f"{str(known.api_uri).rstrip('/')}/v3/connect/auth?{urlencode(query)}"
