"""The HTTP API: what `SendQueue` does, for applications that are not in Python. An ASGI application.

It needs the extra ``api`` (Starlette, python-multipart). Nothing else of `sendq` imports it.

    from sendq.api import api

    application.mount("/mail", api("postgresql+psycopg://…", tokens="/etc/sendq/tokens"))

Its requests are the calls of the Python API in JSON. It answers 201 once the job is committed.
"""

from __future__ import annotations

from sendq.api.application import api
from sendq.api.tokens import Access, Token, TokenFile, TokenFileError, add_token, new_token, remove_token

__all__ = ["Access", "Token", "TokenFile", "TokenFileError", "add_token", "api", "new_token", "remove_token"]
