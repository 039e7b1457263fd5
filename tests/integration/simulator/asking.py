"""How these tests ask the simulator: every answer is held against the official OpenAPI document's facts
(tests/data/nylas_facts.json).
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jsonschema

from tests.support.waiting import LIMIT_S

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data" / "nylas_facts.json").read_text())

PATHS = (
    ("send", "POST", r"/v3/grants/[^/]+/messages/send"),
    ("list", "GET", r"/v3/grants/[^/]+/messages"),
    ("get", "GET", r"/v3/grants/[^/]+/messages/[^/]+"),
    ("modify", "PUT", r"/v3/grants/[^/]+/messages/[^/]+"),
    ("delete", "DELETE", r"/v3/grants/[^/]+/messages/[^/]+"),
    ("modify_thread", "PUT", r"/v3/grants/[^/]+/threads/[^/]+"),
    ("grants", "GET", r"/v3/grants"),
    ("grant", "GET", r"/v3/grants/[^/]+"),
)


def conforms(method: str, path: str, status: int, document: Any) -> None:
    """The answer keeps the document's facts; what an operation does not declare has the shape of its other errors."""
    operation = next(
        (name for name, verb, form in PATHS if verb == method and re.fullmatch(form, path.partition("?")[0])), "grant"
    )
    declared = FACTS[operation]
    schema = declared.get(str(status), FACTS["list"]["401"])
    jsonschema.validate(document, schema)
    if status < 300:
        assert "request_id" in document
        if "data" in document:
            assert invented(document["data"], schema["properties"]["data"]) == set()
    else:
        assert isinstance(document["request_id"], str)
        assert document["error"]["type"]
        assert document["error"]["message"]


def invented(value: Any, schema: dict[str, Any]) -> set[str]:
    """Members at any depth that the document does not know."""
    if isinstance(value, list):
        return {name for one in value for name in invented(one, schema.get("items", {}))}
    if not isinstance(value, dict) or "properties" not in schema:
        return set()
    known = schema["properties"]
    deeper = {name for key, one in value.items() if key in known for name in invented(one, known[key])}
    return deeper | {name for name in value if name not in known}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.json["data"]

    @property
    def error(self) -> Any:
        return self.json["error"]


class Client:
    """A plain HTTP client that changes nothing: what a test says is what goes over the wire."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        self._where, self._context = urlsplit(url).netloc, context

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        if self._context:
            wire: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._where, timeout=LIMIT_S, context=self._context
            )
        else:
            wire = http.client.HTTPConnection(self._where, timeout=LIMIT_S)
        with contextlib.closing(wire):
            yield wire

    def call(self, method: str, path: str, body: Any = None, *, check: bool = True, **headers: str) -> Reply:
        with self.connection() as wire:
            self.ask(wire, method, path, body, **headers)
            answer = wire.getresponse()
            reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        if check and not path.startswith("/_simulator"):
            conforms(method, path, reply.status, reply.json)
            assert reply.headers["x-request-id"] == reply.json["request_id"]
        return reply

    def ask(self, wire: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> None:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        usual = {"authorization": "Bearer test-key", "content_type": "application/json"}
        sent = {name.replace("_", "-"): value for name, value in {**usual, **headers}.items() if value}
        wire.request(method, path, raw, sent)

    def send(self, to: str = "leyah@example.com", grant: str = "g", *, check: bool = True, **more: Any) -> Reply:
        key = more.pop("key", "")
        body = {"to": [{"email": to}], "subject": "Hello", "body": "<p>Hi</p>", **more}
        return self.call("POST", f"/v3/grants/{grant}/messages/send", body, check=check, idempotency_key=key)

    def put(self, message: str, body: Any, grant: str = "g") -> Reply:
        return self.call("PUT", f"/v3/grants/{grant}/messages/{quote(message, safe='')}", body)

    def get(self, message: str, grant: str = "g", query: str = "") -> Reply:
        return self.call("GET", f"/v3/grants/{grant}/messages/{quote(message, safe='')}{query}")

    def list(self, query: str = "", grant: str = "g") -> Reply:
        return self.call("GET", f"/v3/grants/{grant}/messages{query}")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


SEND_PATH = "/v3/grants/g/messages/send"

FORM = "multipart/form-data; boundary=b"


def form_data(name: str, content: bytes) -> bytes:
    """Form data with this part alone."""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


def tls_contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of its own making, and a client's that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "simulator")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "simulator.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))
