"""The files of the console: style, script, and htmx. Their addresses contain their digest, so browsers keep them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

STATIC = Path(__file__).parent / "static"
TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
YEAR_S = 365 * 86_400


@cache
def content(name: str) -> bytes:
    """The content of a file."""
    return (STATIC / name).read_bytes()


@cache
def digest(name: str) -> str:
    """Twelve hex digits of its SHA-256."""
    return hashlib.sha256(content(name)).hexdigest()[:12]


async def serve(request: Request) -> Response:
    """One of them."""
    name = request.path_params["name"]
    if name not in TYPES:
        return PlainTextResponse("not found", 404)
    headers = {"cache-control": f"public, max-age={YEAR_S}, immutable"} if "v" in request.query_params else {}
    return Response(content(name), headers=headers | {"content-type": TYPES[name]})
