"""The forms of a request: their names, size limits and encodings. Imports no message, so workers start faster.

Sources: Nylas, "Using the Attachments API" (sizes).
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONEncoder
from json.encoder import encode_basestring
from typing import Any
from urllib.parse import quote, urlencode

from sendq.messages.content import MOST_BYTES

JSON, JSON_TEXT, MULTIPART, MIME = "json", "json_text", "multipart", "mime"

JSON_TYPE = "application/json"

# For the whole JSON request, not only its attachments; above it Nylas requires multipart. Their page says 3 MB, and not
# whether that is 10^6 or 2^20 bytes each: this is the smaller.
MAX_JSON_BYTES = 3_000_000
MAX_MULTIPART_BYTES = MOST_BYTES

# Not pydantic's serializer: these bytes go into digests that outlive its versions.
_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


# A text as a JSON string: what `_encode` does with one.
quoted = encode_basestring


def encoded(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return _encode(value).encode()


def content_length(form: str, size: int) -> int:
    """The bytes that a content of ``size`` needs in a request of this form."""
    return (size + 2) // 3 * 4 if form == JSON else size


def most_bytes(form: str) -> int:
    """The size limit of a request of this form."""
    return MAX_JSON_BYTES if form in (JSON, JSON_TEXT) else MAX_MULTIPART_BYTES


def with_parameters(body: bytes, parameters: Mapping[str, str]) -> bytes:
    """A request as it is stored: its query parameters and a line feed, if it has any, then its body.

    Neither part contains a line feed: JSON and URLs escape it.
    """
    if not parameters:
        return body
    return urlencode(sorted(parameters.items()), quote_via=quote, safe="").encode() + b"\n" + body


def split_parameters(request: bytes) -> tuple[str, bytes]:
    """The query string (empty if there is none) and the body of a request stored by `with_parameters`."""
    parameters, _, body = request.rpartition(b"\n")
    return parameters.decode(), body
