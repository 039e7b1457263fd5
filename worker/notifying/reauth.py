"""The address where an owner signs in again."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from settings import Settings


def reauth_url(settings: Settings, application: str, grant_id: str, *, login_hint: str | None = None) -> str | None:
    """The address where a grant's owner signs in again; None if neither a page nor a client id is configured.

    ``SENDQ_REAUTH_URL`` is the application's own page. Otherwise it is Nylas's hosted authentication, which keeps the
    grant's id when the same account signs in again ("Hosted authentication", ``GET /v3/connect/auth``). The ledger has
    no address of the account, so the caller adds ``login_hint`` and ``redirect_uri``.
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
