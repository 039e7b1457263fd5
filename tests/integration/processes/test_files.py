"""Whole messages through real processes: each form, held against the official document, and files that arrive once."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from nylas import Client as OfficialClient

from sendq import Attachment, Message, MimeMessage, SendQueue, State, Vault
from sendq.simulator import Accepted, Fault, Request
from sendq.vault import new_key
from tests.integration.processes.test_broker_garbage_worker import most_memory_kb
from tests.integration.simulator.asking import FACTS, invented
from tests.support.servers import PgServer
from tests.support.system import API_KEY, System, running, running_on
from tests.support.waiting import eventually

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
LARGE = random.Random(6).randbytes(4_000_000)  # above what JSON takes

EVERYTHING: dict[str, Any] = {
    "to": ["Leyah <leyah@example.com>"],
    "cc": ["cc@example.com"],
    "bcc": ["bcc@example.com"],
    "reply_to": ["answers@example.com"],
    "from_": ["me@example.com"],
    "subject": "Grüße 🎉",
    "body": '<p><img src="cid:logo"> "quoted" \\ </p>',
    "is_plaintext": False,
    "reply_to_message_id": "message-1",
    "custom_headers": [{"name": "X-Order", "value": "42"}],
    "metadata": {"order": "42"},
    "tracking_options": {"opens": True, "links": False, "thread_replies": True, "label": "l", "domain_name": "t.io"},
    "template": {"id": "template-1", "strict": False, "variables": {"name": "Leyah"}},
    "signature_id": "signature-1",
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system with one worker for all tests here; each uses grants of its own."""
    with running_on(request.param, request, tmp_path_factory.mktemp("system")) as system:
        system.start_worker()
        yield system


def sent(system: System, grant: str, message: Message | MimeMessage, **options: Any) -> tuple[Request, Accepted]:
    """The request of a message that was sent, and what the API accepted."""
    job = system.queue.send(grant, message, **options)
    eventually(lambda: system.state(job.id) is State.SENT, "the sending")
    (accepted,) = [one for one in system.api.mailbox if one.grant == grant]
    assert accepted.job == job.id
    return next(one for one in system.api.requests if one.grant == grant and one.status == 200), accepted


def files() -> list[Attachment]:
    return [
        Attachment(filename="logo.png", content=PNG, content_id="logo", content_disposition="inline"),
        Attachment(filename='Rechnung "März" 2026.pdf', content=b"%PDF-1.7", content_type="application/pdf"),
    ]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestAMessageInJson:
    def test_has_every_field_as_the_official_document_wants_it(self, system: System) -> None:
        request, accepted = sent(system, "json", Message(**EVERYTHING, attachments=files()))
        body = json.loads(request.body)
        jsonschema.validate(body, FACTS["send"]["request"])
        assert invented(body, FACTS["send"]["request"]) == set()
        assert FACTS["send"]["request"]["properties"].keys() - body.keys() == {"send_at", "use_draft"}
        assert request.headers["content-type"] == "application/json"
        assert [base64.b64decode(one["content"]) for one in body["attachments"]] == [PNG, b"%PDF-1.7"]
        shown = [(one["filename"], one["content_type"], one["digest"]) for one in accepted.payload["attachments"]]
        assert shown == [
            ("logo.png", "image/png", digest(PNG)),
            ('Rechnung "März" 2026.pdf', "application/pdf", digest(b"%PDF-1.7")),
        ]


class TestAMessageInFormData:
    def test_has_every_field_as_the_official_document_wants_it(self, system: System) -> None:
        large = Attachment(filename="large.bin", content=LARGE)
        request, accepted = sent(system, "multipart", Message(**EVERYTHING, attachments=[*files(), large]))
        declared = FACTS["send"]["form"]["properties"]["message"]
        body = json.loads(request.body)
        jsonschema.validate(body, declared)
        # Its schema leaves these two out, and the pages beside it use them in this form.
        assert invented(body, declared) == {"metadata", "reply_to_message_id"}
        assert body["metadata"] == {"order": "42", "key1": accepted.job}
        assert request.size > 4_000_000
        assert int(request.headers["content-length"]) == request.size
        assert [(one["filename"], one["content_id"], one["digest"]) for one in accepted.payload["attachments"]] == [
            ("logo.png", "logo", digest(PNG)),
            ('Rechnung "März" 2026.pdf', "file1", digest(b"%PDF-1.7")),
            ("large.bin", "file2", digest(LARGE)),
        ]

    def test_may_have_a_text_above_the_limit_of_json(self, system: System) -> None:
        body = "<p>" + "Grüße " * 900_000
        request, accepted = sent(system, "text", Message(to=["leyah@example.com"], body=body, attachments=files()))
        assert request.size > 6_000_000
        assert int(request.headers["content-length"]) == request.size
        assert json.loads(request.body)["body"] == body
        assert [one["digest"] for one in accepted.payload["attachments"]] == [digest(PNG), digest(b"%PDF-1.7")]

    def test_is_what_the_official_client_makes_of_it(self, system: System) -> None:
        _, ours = sent(
            system,
            "ours",
            Message(
                to=["leyah@example.com"],
                subject="Files",
                attachments=[
                    Attachment(filename="logo.png", content=PNG, content_id="logo"),
                    Attachment(filename="ü.bin", content=LARGE),
                ],
            ),
        )
        theirs = OfficialClient(API_KEY, system.api.url)
        attachments = [
            {
                "filename": "logo.png",
                "content_type": "image/png",
                "content": PNG,
                "size": len(PNG),
                "content_id": "logo",
            },
            {"filename": "ü.bin", "content_type": "application/octet-stream", "content": LARGE, "size": len(LARGE)},
        ]
        given = {"to": [{"email": "leyah@example.com"}], "subject": "Files", "attachments": attachments}
        theirs.messages.send("theirs", given)
        accepted = next(one for one in system.api.mailbox if one.grant == "theirs")
        assert accepted.payload["attachments"] == ours.payload["attachments"]
        marks = ("metadata", "custom_headers")
        assert accepted.payload == {name: value for name, value in ours.payload.items() if name not in marks}


class TestAFinishedMessage:
    def raw(self) -> bytes:
        made = EmailMessage()
        made["From"], made["To"], made["Subject"] = "me@example.com", "Béa <bea@example.com>", "Grüße"
        made.set_content("Hallo")
        made.add_attachment(LARGE, maintype="application", subtype="octet-stream", filename="large.bin")
        return made.as_bytes()

    def test_arrives_as_it_is_under_one_more_header(self, system: System) -> None:
        raw = self.raw()
        request, accepted = sent(system, "mime", MimeMessage(raw))
        assert request.path == "/v3/grants/mime/messages/send?type=mime"
        mark = f"X-Sendq-Job: {accepted.job}\n".encode()
        (part,) = request.files
        assert (part["name"], part["filename"], part["content_type"]) == ("mime", "message.eml", "message/rfc822")
        assert part["digest"] == digest(mark + raw)
        assert request.body.startswith(mark)
        assert accepted.payload["to"] == [{"name": "Béa", "email": "bea@example.com"}]

    def test_is_what_the_official_client_makes_of_it(self, system: System) -> None:
        raw = self.raw()
        request, accepted = sent(system, "our-mime", MimeMessage(raw))
        mark = f"X-Sendq-Job: {accepted.job}\n".encode()
        OfficialClient(API_KEY, system.api.url).messages.send_raw_mime("their-mime", {"mime": mark + raw})
        theirs = next(one for one in system.api.requests if one.grant == "their-mime")
        assert theirs.path.endswith("?type=mime")
        assert theirs.files == request.files
        assert next(one for one in system.api.mailbox if one.grant == "their-mime").payload == accepted.payload


class TestARepeat:
    @pytest.mark.parametrize("form", ["json", "multipart", "mime"])
    def test_is_the_same_bytes_under_the_same_key(self, system: System, form: str) -> None:
        grant = f"repeat-{form}"
        message: Message | MimeMessage = MimeMessage(b"To: a@example.com\r\n\r\n" + base64.encodebytes(LARGE))
        if form != "mime":
            content = LARGE if form == "multipart" else PNG
            message = Message(to=["a@example.com"], attachments=[Attachment(filename="a", content=content)])
        system.api.will(Fault.drop(accepted=True, kept="outcome"), grant=grant, times=1)
        _, accepted = sent(system, grant, message)
        calls = [one for one in system.api.requests if one.grant == grant]
        assert len(calls) == 2
        assert {(one.key, one.digest, one.headers["content-type"]) for one in calls} == {
            (f"{accepted.job}:0", calls[0].digest, calls[0].headers["content-type"])
        }
        assert calls[1].replayed

    def test_under_a_key_that_is_not_known_any_more_is_refused_for_nothing(self, system: System) -> None:
        system.api.will("throttle", grant="new-key", times=1, headers={"Retry-After": "1"})
        message = Message(to=["a@example.com"], attachments=[Attachment(filename="a", content=LARGE)])
        request, accepted = sent(system, "new-key", message)
        assert request.key == f"{accepted.job}:1"


def test_nothing_went_wrong_on_the_way(system: System) -> None:
    assert "Traceback" not in system.workers[0].said()
    assert '"bug"' not in system.workers[0].said()


@pytest.mark.long
class TestWhenEverythingBreaks:
    MEGABYTES_24 = random.Random(24).randbytes(24_000_000)

    @pytest.fixture
    def system(self, pg_server: PgServer, tmp_path: Path) -> Iterator[System]:
        with pg_server.ledger() as url, running(url, tmp_path) as system:
            yield system

    def message(self) -> Message:
        attachment = Attachment(filename="large.bin", content=self.MEGABYTES_24)
        return Message(to=["leyah@example.com"], attachments=[attachment])

    def test_24_megabytes_arrive_once_and_whole_through_workers_that_are_killed(self, system: System) -> None:
        quick = {"SENDQ_STALE_AFTER_S": "3", "SENDQ_BEAT_INTERVAL_S": "0.5"}
        system.prove()
        system.start_controlled_worker(**quick, SENDQ_LOCAL_TURNS="false")
        system.control("cancel_consumer", "sendq")  # it leads and rescues, and the others carry out
        job = system.queue.send("g1", self.message(), provider="unknown")
        # Once in the middle of the upload …
        system.api.behaviour.bytes_per_s = 20_000_000
        doomed = system.start_worker(**quick)
        eventually(lambda: system.api.received > 12_000_000, "the upload")
        doomed.kill()
        assert system.api.requests == []
        # … and once behind its last byte, when it has gone out.
        system.api.will(Fault.hang(accepted=True), grant="g1")
        system.api.behaviour.bytes_per_s = None
        doomed = system.start_worker(**quick)
        eventually(lambda: system.api.mailbox, "the sending")
        doomed.kill()
        system.control("add_consumer", "sendq")
        system.wait_for(State.SENT, 1)
        (accepted,) = system.api.mailbox
        assert accepted.job == job.id
        assert accepted.payload["attachments"][0]["digest"] == digest(self.MEGABYTES_24)
        assert [one.key for one in system.api.requests] == [f"{job.id}:0"] * 2
        assert len({one.digest for one in system.api.requests}) == 1
        assert system.api.broken_off == 1
        trail = system.queue.job(job.id).trail
        assert [(attempt.rule, attempt.replayed) for attempt in trail] == [
            ("worker_died", False),
            ("worker_died", False),
            ("accepted", True),
        ]

    def test_an_upload_whose_ledger_goes_away_was_not_sent_and_goes_again(
        self, system: System, pg_server: PgServer
    ) -> None:
        system.prove()
        system.api.behaviour.bytes_per_s = 8_000_000
        system.start_worker()
        job = system.queue.send("g1", self.message(), provider="unknown")
        eventually(lambda: system.api.received > 2_000_000, "the upload")
        database = system.engine.url.database
        pg_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        pg_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
        eventually(lambda: system.api.broken_off == 1, "the end of the upload")
        pg_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        system.api.behaviour.bytes_per_s = None
        system.wait_for(State.SENT, 1)
        trail = system.queue.job(job.id).trail
        assert [(attempt.rule, attempt.sent) for attempt in trail] == [("request_broke_off", "no"), ("accepted", "yes")]
        (accepted,) = system.api.mailbox
        assert accepted.key == f"{job.id}:0"  # nothing was ever asked under it
        assert accepted.payload["attachments"][0]["digest"] == digest(self.MEGABYTES_24)


# Measured: 127 MB, little more than an idle worker. Fifty calls that held their files would need 1,200 MB more; each
# holds two or three chunks of 0.2 MB, and what the socket has not taken yet.
MEMORY_MOST_KB = 250_000


@pytest.mark.long
@pytest.mark.parametrize("key", ["", new_key("k")], ids=["plain", "sealed"])
def test_fifty_uploads_of_24_megabytes_at_once_stay_within_memory(
    pg_server: PgServer, tmp_path: Path, key: str
) -> None:
    with pg_server.ledger() as url, running(url, tmp_path) as system:
        queue = SendQueue(system.engine, vault=Vault.parse(key))
        contents = [random.Random(seed).randbytes(24_000_000) for seed in range(5)]
        system.prove()
        for number in range(50):
            attachment = Attachment(filename="large.bin", content=contents[number % 5])
            queue.send(f"g{number}", Message(to=["leyah@example.com"], attachments=[attachment]))
        system.api.behaviour.bytes_per_s = 1_000_000  # slower than the ledger, so that all are on the wire together
        worker = system.start_worker(SENDQ_CONCURRENCY="100", SENDQ_ENCRYPTION_KEYS=key)
        eventually(lambda: system.api.mailbox, "the first mail")
        assert system.api.received > 25 * 24_000_000  # most were on their way when the first had arrived
        system.wait_for(State.SENT, 50)
        arrived = {one.grant: one.payload["attachments"][0]["digest"] for one in system.api.mailbox}
        assert arrived == {f"g{number}": digest(contents[number % 5]) for number in range(50)}
        assert len(system.api.mailbox) == len(system.api.requests) == 50
        assert most_memory_kb(worker) < MEMORY_MOST_KB
