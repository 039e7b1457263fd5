"""The API's answers: their format, and the texts of its errors.

Format, type strings and texts follow the official OpenAPI document (operations of ``/v3/grants/{id}/messages`` and
``/v3/grants``) and the page https://developer.nylas.com/docs/api/errors/ . Every answer carries a ``request_id``, in
the body and as the header ``x-request-id``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON_TYPE = "application/json"

_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, without the headers that the HTTP server adds."""

    status: int
    body: bytes
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON_TYPE


class Refusal(Exception):
    """The API rejects a request: becomes an answer with the error envelope of v3."""

    def __init__(self, status: int, type: str, message: str, provider_error: Mapping[str, Any] | None = None) -> None:
        self.status, self.type, self.message, self.provider_error = status, type, message, provider_error
        super().__init__(f"{status} {type}: {message}")

    def answer(self, request_id: str) -> Answer:
        return Answer(self.status, error_body(request_id, self.type, self.message, self.provider_error), request_id)


def error_body(request_id: str, type: str, message: str, provider_error: Mapping[str, Any] | None = None) -> bytes:
    """The error envelope of v3, ``{"request_id", "error": {"type", "message", "provider_error"?}}``, as bytes."""
    error: dict[str, Any] = {"type": type, "message": message}
    if provider_error is not None:
        error["provider_error"] = provider_error
    return encode({"request_id": request_id, "error": error})


def success(request_id: str, *, status: int = 200, **members: Any) -> Answer:
    """A success whose top level holds ``request_id`` and ``members`` (``data``, ``grant_id``, ``next_cursor`` …)."""
    return Answer(status, encode({"request_id": request_id, **members}), request_id)


def encode(value: Any) -> bytes:
    # ASCII with escapes: a lone surrogate that came in as an escape goes out as one instead of failing here.
    return _encode(value).encode("ascii")


def unauthorized_key() -> Refusal:
    """A missing or wrong API key. The type table says 400, the real API says 401."""
    return Refusal(
        401, "token.unauthorized_access", "Unauthorized: the bearer token or API key is missing or not valid"
    )


def unauthorized_grant() -> Refusal:
    """The grant has expired: the provider rejects its credentials. A bad API key has no ``provider_error``."""
    return Refusal(
        401,
        "unauthorized",
        "Unauthorized",
        {
            "code": 401,
            "message": "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
            "or other valid authentication credential.",
        },
    )


def grant_not_found() -> Refusal:
    return Refusal(404, "grant.not_found", "No Grant found for this Grant ID")


def not_found() -> Refusal:
    return Refusal(404, "not_found_error", "requested object not found")


def invalid(message: str, type: str = "invalid_request_error") -> Refusal:
    return Refusal(400, type, message)
