"""`sendq api` on a socket, its page in the documentation, `sendq token`, and the clients in the examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from sendq import SendQueue
from sendq.testing import enqueued
from settings import Settings, SettingsError
from tests.support.commands import Cli
from tests.support.pages import ROOT, run_program, snippets
from tests.support.processes import Running, running
from tests.support.waiting import LIMIT_S
from worker.cli.params import API_PORT
from worker.processes.api import tokens_of
from worker.processes.up import for_api

EXAMPLES = ROOT / "examples" / "http_client"
PAGE = [one for one in snippets("sh", "python") if one.page == "docs/http_api.md"]
TOKEN = re.compile(r"sendq_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


@dataclass
class Served:
    """A server, a token for it, and the ledger behind it."""

    url: str
    token: str
    ledger: str
    queue: SendQueue
    process: Running

    def run(self, command: list[str], cwd: Path = ROOT, given: str = "", **environ: str) -> str:
        """What a client prints; it must end with 0."""
        environ = {"PATH": os.environ["PATH"], "SENDQ_URL": self.url, "SENDQ_TOKEN": self.token, **environ}
        done = subprocess.run(
            command, cwd=cwd, env=environ, input=given, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def token(run: Cli, tokens: Path) -> str:
    """A token made by the command."""
    status, out, err = run("token", "create", "shop", "--write", "--file", str(tokens))
    assert (status, bool(TOKEN.fullmatch(out.strip()))) == (0, True), err
    return out.strip()


@pytest.fixture
def served(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Made by the first commands of the page, in their order."""
    monkeypatch.chdir(tmp_path)
    exports, *commands, last = [shlex.split(line, comments=True) for line in PAGE[0].text.splitlines()]
    given = dict(one.split("=", 1) for one in exports[1:])
    environ = {  # the server has another working directory
        "DATABASE_URL": given.pop("DATABASE_URL").replace("sqlite:///", f"sqlite:///{tmp_path}/"),
        "SENDQ_API_TOKENS_FILE": str(tmp_path / given.pop("SENDQ_API_TOKENS_FILE")),
    }
    assert not given
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for words in commands:
        status, out, err = run(*words[1:])
        assert (words[0], status) == ("sendq", 0), err
    assert TOKEN.fullmatch(out.strip())
    assert last == ["sendq", "api"]
    with running(["api", "--port", "0"], tmp_path, **environ) as process:
        url = process.line_with("api: ").split()[1].removesuffix("/v1/openapi.json")
        queue = SendQueue(environ["DATABASE_URL"])
        yield Served(url, out.strip(), environ["DATABASE_URL"].removeprefix("sqlite:///"), queue, process)
        queue.close()


def test_the_page_and_the_clients_do_what_they_say_and_slow_clients_hold_nothing(
    served: Served, tmp_path: Path
) -> None:
    """One server for all of it: it takes more than a second of CPU to start."""
    _holds_no_transaction_for_slow_clients(served)
    if shutil.which("curl"):
        _answers_the_commands_of_the_page(served, tmp_path)
    if shutil.which("curl") and shutil.which("jq"):
        _answers_the_script(served, tmp_path)
    if shutil.which("node"):
        _answers_the_client_for_node(served)
    assert served.process.interrupt(signal.SIGTERM) == 0
    assert "Traceback" not in served.process.stderr
    assert '"level": "error"' not in served.process.stderr
    assert served.token[30:] not in served.process.stderr
    assert "@example.com" not in served.process.stderr
    missing = [name for name in ("curl", "jq", "node") if not shutil.which(name)]
    if missing:
        pytest.skip(f"not on this machine, so its clients were not tried: {', '.join(missing)}")


def _holds_no_transaction_for_slow_clients(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\n"
    slow = [socket.create_connection((host, int(port))) for _ in range(5)]
    for number, one in enumerate(slow):
        one.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n".encode() + b"{" * number)
    # The server has read those before it answers this one.
    with urllib.request.urlopen(f"{served.url}/v1/openapi.json", timeout=LIMIT_S) as answer:
        assert answer.status == 200
    # SQLite has one writer: this one would fail if any of them had begun a transaction, and not ended it.
    with closing(sqlite3.connect(served.ledger, timeout=0)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    for one in slow:
        one.close()


def _answers_the_commands_of_the_page(served: Served, tmp_path: Path) -> None:
    (tmp_path / "offer.pdf").write_bytes(b"%PDF")
    (tmp_path / "logo.png").write_bytes(b"PNG")
    texts = [one.text for one in PAGE if "curl" in one.text]
    assert len(texts) == 3
    for text in texts:
        script = text.replace(f"http://127.0.0.1:{API_PORT}", served.url).replace("curl ", "curl -sS --fail-with-body ")
        served.run(["bash", "-euc", script], tmp_path, TOKEN=served.token)
    assert {one.key for one in enqueued(served.queue)} == {"invoice-42", "newsletter-may", "read-7", "offer-7"}
    (offer,) = enqueued(served.queue, key="offer-7")
    assert offer.attachments == ("offer.pdf", "logo.png")


def _answers_the_script(served: Served, tmp_path: Path) -> None:
    (tmp_path / "invoice-7.pdf").write_bytes(b"%PDF" * 1_000)
    command = [str(EXAMPLES / "send.sh"), "g1", "invoice-7.pdf", "leyah@example.com"]
    first, again = (served.run(command, tmp_path).splitlines() for _ in range(2))
    assert json.loads(first[0])["id"] == json.loads(again[0])["id"]
    assert json.loads(first[1])["reason"] == "no_worker"


def _answers_the_client_for_node(served: Served) -> None:
    readers = "ann@example.com\nbob@example.com\n"
    command = ["node", str(EXAMPLES / "newsletter.mjs"), "g1", "june"]
    first = served.run(command, given=readers, ONCE="1")
    assert re.fullmatch(r"enqueued \S+\n0 % \{\}\n", first), first
    assert served.run(command, given=readers, ONCE="1").startswith("found ")
    uses = f"""
import {{ Sendq }} from "{EXAMPLES / "sendq.mjs"}";
const sendq = new Sendq(process.env.SENDQ_URL + "/", process.env.SENDQ_TOKEN);
const files = [{{ blob: new Blob(["x"]), filename: "a.txt" }}];
const request = {{ grant_id: "g1", message: {{ to: ["leyah@example.com"] }} }};
const job = await sendq.sendWithFiles(request, files, "node-1");
const why = await sendq.why(job.id);
const {{ state }} = await sendq.cancel(job.id);
const known = await sendq.job(job.id);
const wrong = await sendq.send({{ grant_id: "g1", message: {{ to: ["nobody"] }} }}).catch((error) => error);
const undone = await Promise.all([[job.id], [job.id, {{ key: "undo-1", reason: 5 }}]].map(
  (given) => sendq.undo(...given).catch((error) => error.status)));
console.log(JSON.stringify([why.reason, state, known.key, wrong.status, wrong.problems[0].field, ...undone]));
"""
    told = served.run(["node", "--input-type=module", "--eval", uses])
    assert json.loads(told) == ["no_worker", "cancelled", "node-1", 422, "to[0].email", 404, 404]


NODE = f"""
import http from "node:http";
import {{ Sendq }} from "{EXAMPLES / "sendq.mjs"}";
let requests = 0, answer;
const server = http.createServer((request, response) => {{ requests += 1; request.resume(); answer?.(response); }});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${{server.address().port}}`;
const seen = [];
async function attempt(key, reply, options = {{}}) {{
  [requests, answer] = [0, reply];
  const error = await new Sendq(url, "t", {{ attempts: 2, ...options }}).send({{}}, key).catch((error) => error);
  seen.push([requests, error.name === "TimeoutError" ? error.name : error.constructor.name, error.status ?? null]);
}}
const problem = (status) => (response) =>
  response.writeHead(status, {{ "retry-after": "0" }}).end(`{{"title": "It failed", "status": ${{status}}}}`);
await attempt("k", problem(500));
await attempt("k", problem(409));
await attempt(undefined, problem(503));
await attempt("請", problem(500));
await attempt("k", (response) => response.writeHead(502, {{ "retry-after": "0" }}).end("<html>"));
await attempt("k", undefined, {{ attempts: 1, timeout: 0.05 }});
console.log(JSON.stringify(seen));
process.exit(0);
"""


@pytest.mark.skipif(not shutil.which("node"), reason="not on this machine: node")
def test_the_client_for_node_repeats_what_may_be_repeated_and_says_why_it_failed(tmp_path: Path) -> None:
    command = ["node", "--input-type=module", "--eval", NODE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert json.loads(done.stdout) == [
        [2, "SendqError", 500], [1, "SendqError", 409], [1, "SendqError", 503], [0, "TypeError", None],
        [2, "SendqError", 502], [1, "TimeoutError", None],
    ]  # fmt: skip


class TestThePage:
    def test_has_commands_that_there_are(self, run: Cli, tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENDQ_API_TOKENS_FILE", str(tokens))
        lines = [shlex.split(line, comments=True) for one in PAGE for line in one.text.splitlines() if "sendq " in line]
        commands = [words[1:] for words in lines if words and words[0] == "sendq"]
        for words in commands:
            if words not in (["api"], ["migrate"]):  # see `served`
                assert run(*words)[0] == 0, words
        assert [words[:2] for words in commands] == [
            ["migrate"], ["token", "create"], ["api"], ["token", "create"], ["token", "list"], ["token", "revoke"],
        ]  # fmt: skip
        assert "shop: write, every grant of default" in run("token", "list")[1]

    def test_mounts_the_api_as_it_says(self, tmp_path: Path) -> None:
        (mounted,) = (one.text for one in PAGE if "from sendq.api" in one.text)
        (tmp_path / "tokens").touch()
        run_program([sys.executable, "-W", "error", "-c", f"{mounted}\nassert callable(mail)"], tmp_path)

    def test_names_the_addresses_that_there_are(self) -> None:
        from sendq.api.routes import OPERATIONS

        known = {(one.method, re.sub(r"\{\w+\}", "ID", one.path)) for one in OPERATIONS}
        assert _addresses((ROOT / "docs" / "http_api.md").read_text()) == known


def _addresses(page: str) -> set[tuple[str, str]]:
    """What the table of the page names: ``…`` stands for the address before it, up to its id."""
    found = set()
    for row in re.findall(r"^\| (`[A-Z]+ /v1/.*)$", page, re.MULTILINE):
        named, about, _ = row.split(" | ")
        for method, path in re.findall(r"`(?:([A-Z]+) )?([^`]+)`", named):
            if method:
                last, base = method, path.partition("/ID")[0] + "/ID"
            address = path.replace("…", base)
            found.add((last, address))
            if "the same for a batch" in about:
                found.add((last, address.replace("/jobs/", "/batches/")))
    return found


class TestTheCommand:
    def test_needs_a_token_file(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"SENDQ_API_TOKENS_FILE: is not set; .*sendq token create"):
            tokens_of(Settings())
        path = tmp_path / "tokens"
        path.write_text("anna\n")
        with pytest.raises(SettingsError, match="SENDQ_API_TOKENS_FILE: line 1 of the token file"):
            tokens_of(Settings(api_tokens_file=path))

    def test_of_a_ledger_that_is_away_ends_with_one_sentence(
        self, run: Cli, monkeypatch: pytest.MonkeyPatch, token: str, tokens: Path
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://sendq:hush@127.0.0.1:1/x")
        monkeypatch.setenv("SENDQ_API_TOKENS_FILE", str(tokens))
        status, _, err = run("api", "--port", "0")
        assert (status, err.count("\n")) == (2, 1)
        assert "cannot be reached" in err

    @pytest.mark.parametrize(
        ("given", "port"), [((), None), (("--api",), API_PORT), (("--api-port", "0"), 0)]
    )  # fmt: skip
    def test_with_everything_else_has_the_port_that_is_chosen(
        self, run: Cli, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], port: int | None
    ) -> None:
        ports: list[int | None] = []

        def up(*_: object, api_port: int | None, **__: object) -> int:
            ports.append(api_port)
            return 0

        monkeypatch.setattr("worker.processes.up.up", up)
        assert (run("up", *given)[0], ports) == (0, [port])

    def test_with_everything_else_is_given_no_key_of_the_api(self) -> None:
        given = for_api({
            "NYLAS_API_KEY": "x", "REDIS_URL": "x", "SENDQ_CONSOLE_SECRET": "x", "SENDQ_OUTCOME_SECRET": "x",
            "SENDQ_ENCRYPTION_KEYS": "x", "DATABASE_URL": "x", "SENDQ_API_TOKENS_FILE": "x",
        })  # fmt: skip
        assert given.keys() == {"SENDQ_ENCRYPTION_KEYS", "DATABASE_URL", "SENDQ_API_TOKENS_FILE"}


class TestToken:
    def test_is_shown_once_listed_and_revoked(self, run: Cli, token: str, tokens: Path) -> None:
        where = ("--file", str(tokens))
        assert tokens.stat().st_mode & 0o777 == 0o600
        narrow = run("token", "create", "desk", "--grant", "a*", "--grant", "b", "--expires", "90d", *where)
        assert (narrow[0], "read, grants a*, b of default" in narrow[2]) == (0, True)
        status, out, _ = run("token", "list", *where)
        assert (status, token[30:] in out, "desk: read, grants a*, b of default" in out) == (0, False, True)
        (shop, desk) = json.loads(run("token", "list", "--json", *where)[1])
        assert (shop["access"], desk["grants"], "digest" in shop) == ("write", ["a*", "b"], False)
        assert run("token", "revoke", "shop", *where)[0] == 0
        assert run("token", "revoke", "shop", *where)[0] == 1
        assert "shop" not in run("token", "list", *where)[1]

    def test_that_cannot_be_made_says_why(self, run: Cli, token: str, tokens: Path, tmp_path: Path) -> None:
        where = ("--file", str(tokens))
        for given, says in (
            (("a b", *where), "use 1 to 64 of letters"),
            (("shop", *where), "is already in use by another token"),
            (("desk", "--grant", "", *where), "not a pattern"),
            (("desk",), "give --file, or set SENDQ_API_TOKENS_FILE"),
            (("desk", "--file", str(tmp_path / "no" / "tokens")), "cannot be used (No such file or directory)"),
        ):
            status, out, err = run("token", "create", *given)
            assert (status, out, says in err) == (2, "", True), err
        assert run("token", "list", "--file", str(tmp_path / "none"))[0] == 2
