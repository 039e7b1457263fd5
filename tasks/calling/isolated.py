"""A call in a separate process: for a job during which two workers died, so that a third one does not.

    worker ──stdin──▶ child     the request, after the worker's last check whether it may go
           ◀──stdout──          first "ready"; then the raw answer, after the child has parsed it as a worker would

A child that ends before it is ready has not seen the job, so its end says nothing about the job (`NoProcess`). If it
ends later (by a signal, out of memory, or because it takes too long), the job is to blame: the answer is the fault
``died``, and whether the request was sent is unknown.

API key and message go through the pipe, because other users can read a command line and an environment. The child never
outlives its worker: the kernel kills it (``PR_SET_PDEATHSIG``), or else it ends when its stdin is closed.

This file is also the child's program (``python -m tasks.calling.isolated``).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from sendq import clock
from sendq.facts.jobs import ClaimedJob
from sendq.messages.forms import JSON_TYPE
from tasks.calling.calls import read_answer
from tasks.calling.nylas import SLOWEST_UPLOAD, Application, NylasClient
from tasks.calling.upload import INCOMPLETE, Upload
from tasks.policy.failure import Answer

ROOT = Path(__file__).parents[2]

# From the start of the interpreter to "ready"; half a second on an idle machine.
START_S = 30.0

# Added to the limit of the call itself: to parse the largest answer on a busy machine.
READING_S = 20.0

# Limit of the address space. The largest message takes a few times 25 MB, the interpreter with its libraries 300 MB.
MEMORY_BYTES = 1 << 30

# All that a child needs to run; none of it is secret.
ENVIRONMENT = (
    "PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
READY = b"ready"
_NO_ID = UUID(int=0)
_LENGTH = struct.Struct(">I")


class NoProcess(Exception):
    """The child could not be started: a problem of the machine, not of the job."""


class Alone(NylasClient):
    """A client for a single call, a job's, made by a separate process that lives as long as the ``async with`` block.

    Use it on one event loop, whose thread must outlive the block. Entering raises `NoProcess`.
    """

    def __init__(self, job: ClaimedJob, *, provider: str, connect_s: float, read_s: float) -> None:
        super().__init__(connect_s=connect_s, read_s=read_s)
        self._job, self._provider = job, provider
        self._child: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        try:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tasks.calling.isolated", str(os.getpid()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env=_environment(), cwd=ROOT,
            )  # fmt: skip
        except OSError as error:
            raise NoProcess(type(error).__name__) from error
        try:
            async with asyncio.timeout(START_S):
                await _read(self._from_child)
        except (EOFError, TimeoutError) as error:
            await self.close()
            raise NoProcess(type(error).__name__) from error
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End the process."""
        with suppress(ProcessLookupError):
            self._child.kill()
        self._to_child.close()
        await self._child.wait()

    async def _call(
        self,
        method: str,
        application: Application,
        path: str,
        *,
        body: bytes | Upload | None = None,
        content_type: str = JSON_TYPE,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        try:
            key = application.api_key()
        except (OSError, ValueError):
            return Answer(None, {}, b"", "key")
        upload_s = body.length / SLOWEST_UPLOAD if isinstance(body, Upload) else 0.0
        read_s = self._read_s + upload_s
        request = {
            "method": method,
            "path": path,
            "content_type": content_type,
            "headers": dict(headers or {}),
            "has_body": body is not None,
            "api_uri": application.api_uri,
            "api_key": key,
            "connect_s": self._connect_s,
            "read_s": read_s,
            "provider": self._provider,
            "job": _for_reading(self._job),
        }
        try:
            async with asyncio.timeout(upload_s + READING_S):
                await self._write_frames(json.dumps(request).encode())
                if isinstance(body, Upload) and not await self._pass_on(body):
                    return Answer(None, {}, b"", body.trouble)  # the child has not begun: the body has not ended
                await self._write_frames(*([body] if isinstance(body, bytes) and body else []), b"")
        except TimeoutError:
            return Answer(None, {}, b"", INCOMPLETE)
        except ConnectionError:
            return Answer(None, {}, b"", "died")
        try:
            async with asyncio.timeout(self._connect_s + read_s + READING_S):
                head = json.loads(await _read(self._from_child))
                return Answer(head["status"], head["headers"], await _read(self._from_child), head["fault"])
        except (EOFError, ConnectionError, TimeoutError, ValueError):
            return Answer(None, {}, b"", "died")

    async def _pass_on(self, upload: Upload) -> bool:
        """Pass a body to the child piece by piece; False if it could not be read to its end."""
        try:
            async for piece in upload.body():
                if piece:
                    await self._write_frames(piece)
        except ConnectionError:
            raise
        except Exception:  # whatever the ledger raises; `trouble` is the fault
            return False
        return True

    async def _write_frames(self, *contents: bytes) -> None:
        self._to_child.writelines(map(_frame, contents))
        await self._to_child.drain()

    @property
    def _from_child(self) -> asyncio.StreamReader:
        assert self._child.stdout is not None
        return self._child.stdout

    @property
    def _to_child(self) -> asyncio.StreamWriter:
        assert self._child.stdin is not None
        return self._child.stdin


def _for_reading(job: ClaimedJob) -> dict[str, Any]:
    """The facts that `read_answer` needs about a job."""
    return {
        "operation": job.operation,
        "doubt_at": job.doubt_at,
        "rule": job.rule,
        "content_type": job.content_type,
        "body": job.body.decode() if job.operation == "list" else "",
    }


def _read_job(facts: Mapping[str, Any]) -> ClaimedJob:
    """The job as `read_answer` needs it; all other fields are empty."""
    return ClaimedJob(
        id=_NO_ID,
        lane_id=_NO_ID,
        batch_id=None,
        operation=facts["operation"],
        form=None,
        object_id=None,
        priority=0,
        due_at=0,
        next_at=0,
        expires_at=None,
        attempts=0,
        deaths=0,
        conflicts=0,
        generation=0,
        content_version=0,
        key_at=None,
        doubt_at=facts["doubt_at"],
        rule=facts["rule"],
        tags=None,
        body=facts["body"].encode(),
        content_type=facts["content_type"],
    )


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return found | {"PYTHONPATH": os.pathsep.join(paths)}


def _frame(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


async def _read(source: asyncio.StreamReader) -> bytes:
    """The next frame; raises ``EOFError`` if there is none or it is incomplete."""
    (length,) = _LENGTH.unpack(await source.readexactly(_LENGTH.size))
    return await source.readexactly(length)


# --- the child --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Endpoint:
    api_uri: str
    key: str

    def api_key(self) -> str:
        return self.key


async def _serve(output: int) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _write(output, READY)
    request, pieces = json.loads(await _read(reader)), []
    while piece := await _read(reader):
        pieces.append(piece)
    call = asyncio.ensure_future(_make(request, b"".join(pieces)))
    abandoned = asyncio.ensure_future(reader.read(1))
    await asyncio.wait([call, abandoned], return_when=asyncio.FIRST_COMPLETED)
    if not call.done():
        return
    answer = call.result()
    read_answer(_read_job(request["job"]), answer, provider=request["provider"], now=clock.now())
    head = {"status": answer.status, "headers": dict(answer.headers), "fault": answer.fault}
    _write(output, json.dumps(head).encode(), answer.body)


async def _make(request: Mapping[str, Any], body: bytes) -> Answer:
    endpoint = _Endpoint(request["api_uri"], request["api_key"])
    async with NylasClient(connect_s=request["connect_s"], read_s=request["read_s"]) as client:
        return await client._call(
            request["method"],
            endpoint,
            request["path"],
            body=body if request["has_body"] else None,
            content_type=request["content_type"],
            headers=request["headers"],
        )


def _write(output: int, *contents: bytes) -> None:
    with open(output, "wb", closefd=False) as stream:
        stream.writelines(map(_frame, contents))


def _bind_to(worker: int) -> None:
    """End with the worker, limit the memory, and write no core dump, which would contain a message."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:  # it ended before the call above
        raise SystemExit(1)
    with suppress(ValueError):  # there already is a lower limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Make the call that stdin describes."""
    _bind_to(int(sys.argv[1]))
    output = os.dup(1)
    os.dup2(2, 1)  # nothing printed here may mix with the answer
    asyncio.run(_serve(output))


if __name__ == "__main__":
    main()
