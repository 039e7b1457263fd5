"""A call in a process of its own, with a real API behind it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from sendq.ids import new_id
from sendq.messages.content import StoredPiece
from sendq.messages.forms import JSON
from sendq.simulator import Fault, Simulator
from tasks.calling import isolated
from tasks.calling.isolated import Alone, NoProcess
from tasks.calling.upload import UNREADABLE, Upload
from tasks.policy.failure import Answer, Success, parse
from tests.support.facts import claimed_job
from tests.support.system import API_KEY
from tests.support.waiting import eventually

POISON = Path(__file__).parents[2] / "support" / "poison"
BODY = json.dumps({"to": [{"email": "leyah@example.com"}], "subject": "Invoice 42", "body": "42"}).encode()


JOB = claimed_job(body=BODY)


@dataclass(frozen=True)
class Endpoint:
    api_uri: str

    def api_key(self) -> str:
        return API_KEY


@pytest.fixture
def api() -> Iterator[Simulator]:
    with Simulator(api_key=API_KEY) as simulator:
        yield simulator


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(POISON))


def send(api: Simulator, *, read_s: float = 20.0) -> Answer:
    async def call() -> Answer:
        async with Alone(JOB, provider="google", connect_s=5, read_s=read_s) as caller:
            return await caller.send(Endpoint(api.url), "g1", BODY, "key-1")

    return asyncio.run(call())


def children() -> list[psutil.Process]:
    """Those that make a call (the servers of the session are our children too)."""
    return [child for child in psutil.Process().children() if "tasks.calling.isolated" in child.cmdline()]


class TestACallOfItsOwn:
    def test_brings_back_what_the_api_said(self, api: Simulator) -> None:
        answer = send(api)
        result = parse(answer, provider="google", operation="send", now=0)
        assert isinstance(result, Success)
        assert result.message_id == api.mailbox[0].id
        (request,) = api.requests
        assert (request.body, request.key, request.headers["authorization"]) == (BODY, "key-1", f"Bearer {API_KEY}")

    def test_can_be_a_modification(self, api: Simulator) -> None:
        async def call() -> Answer:
            async with Alone(JOB, provider="google", connect_s=5, read_s=20) as caller:
                return await caller.modify(Endpoint(api.url), "g1", "<m@1/+>", b'{"unread": false}')

        assert asyncio.run(call()).status == 200
        assert api.requests[0].message_id == "<m@1/+>"

    def test_can_ask_for_a_page(self, api: Simulator) -> None:
        job = claimed_job(operation="list", content_type="", body=b"limit=5&subject=a%20b")

        async def call() -> Answer:
            async with Alone(job, provider="google", connect_s=5, read_s=20) as caller:
                return await caller.find(Endpoint(api.url), "g1", {"limit": "5"})

        assert asyncio.run(call()).status == 200

    @pytest.mark.parametrize("whole", [True, False])
    def test_sends_files_and_only_if_they_are_whole(self, api: Simulator, whole: bool) -> None:
        attached = json.dumps({"to": [{"email": "leyah@example.com"}], "subject": "1", "body": "2"}).encode()

        class Source:
            async def pieces(self, job_id: UUID) -> list[StoredPiece]:
                return [StoredPiece(content_id=job_id, digest=b"", size=0, after=attached[10:])]

            async def chunk(self, piece: StoredPiece, position: int) -> bytes | None:
                raise AssertionError("a content without bytes has no chunk")

        length = len(attached) if whole else len(attached) + 1
        upload = Upload(new_id(), JSON, attached[:10], length, Source())

        async def call() -> Answer:
            async with Alone(JOB, provider="google", connect_s=5, read_s=20) as caller:
                return await caller.send(Endpoint(api.url), "g1", upload, "key-1")

        answer = asyncio.run(call())
        if whole:
            assert answer.status == 200
            assert api.requests[0].body == attached
        else:
            assert answer.fault == UNREADABLE
            assert api.requests == []

    def test_brings_back_a_fault_as_the_client_has_it(self, api: Simulator) -> None:
        api.will(Fault.drop())
        assert send(api).fault == "reset"

    def test_leaves_no_process(self, api: Simulator) -> None:
        send(api)
        assert children() == []

    def test_shows_neither_key_nor_message_to_who_looks_at_processes(
        self, api: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NYLAS_API_KEY", API_KEY)
        monkeypatch.setenv("DATABASE_URL", "postgresql://sendq:secret@db/sendq")
        seen = []

        async def look() -> None:
            async with Alone(JOB, provider="google", connect_s=5, read_s=20) as caller:
                await caller.send(Endpoint(api.url), "g1", BODY, "key-1")
                (child,) = children()
                seen.append(" ".join([*child.cmdline(), *map(str, child.environ().items())]))

        asyncio.run(look())
        assert "tasks.calling.isolated" in seen[0]
        for secret in (API_KEY, "secret", "Invoice", "leyah"):
            assert secret not in seen[0]


class TestAProcessThatDies:
    @pytest.mark.usefixtures("deadly")
    @pytest.mark.parametrize("word", ["deadly", "insatiable"])
    def test_of_the_answer_leaves_it_unknown(self, api: Simulator, word: str) -> None:
        api.will(Fault.status(400, message=f"{word} answer"))
        assert send(api) == Answer(None, {}, b"", "died")
        assert len(api.requests) == 1

    @pytest.mark.usefixtures("deadly")
    def test_or_never_ends_is_ended(self, api: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(isolated, "READING_S", 0.5)
        api.will(Fault.status(400, message="endless answer"))
        assert send(api, read_s=1.0) == Answer(None, {}, b"", "died")
        assert children() == []

    def test_before_it_has_the_job_says_nothing_about_the_job(
        self, api: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text("raise SystemExit(3)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(NoProcess):
            send(api)
        assert api.requests == []


class TestItsWorker:
    """What becomes of the child when its worker ends: nothing."""

    STORY = textwrap.dedent("""
        import asyncio, sys
        from tasks.calling.isolated import Alone
        from tests.support.facts import claimed_job
        JOB = claimed_job()
        class Endpoint:
            api_uri = sys.argv[1]
            def api_key(self): return "test-key"
        async def main():
            async with Alone(JOB, provider="google", connect_s=5, read_s=150) as caller:
                print(caller._child.pid, flush=True)
                await caller.send(Endpoint(), "g1", b"{}", "key-1")
        asyncio.run(main())
    """)

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
    def test_takes_it_along(self, api: Simulator, signum: signal.Signals) -> None:
        api.will(Fault.hang(), times=None)
        worker = subprocess.Popen(
            [sys.executable, "-c", self.STORY, api.url], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert worker.stdout is not None
        child = psutil.Process(int(worker.stdout.readline()))
        eventually(lambda: api.requests, "the call on the wire")
        worker.send_signal(signum)
        worker.wait()
        worker.stdout.close()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")
