"""Whose token may do what: no token sees or touches the jobs of another application or grant."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from sendq import Message, NewBatch, Priority, SendQueue
from sendq import Send as PySend
from sendq.api import Access, TokenFile, TokenFileError, add_token, api, new_token, remove_token
from sendq.enqueueing.options import Options
from sendq.ledger.db import schema
from sendq.testing import enqueued
from sendq.views.owner import Owner
from tests.integration.api.conftest import MESSAGE, Client, fields_of, told
from tests.support.asgi import Answer
from tests.support.ledger import Ledger

SEND = {"grant_id": "g1", "message": MESSAGE}
MAIL = Message(to=["leyah@example.com"])
Clients = Callable[..., Client]

READS = ("", "/why")
CHANGES = ("/cancel", "/replace", "/hold", "/release", "/reschedule", "/priority")
GIVEN = {"/replace": {"message": MESSAGE}, "/reschedule": {"due_at": None}, "/priority": {"priority": "low"}}


class TestATokenOfAnother:
    @pytest.mark.parametrize("absorbed", [False, True])
    @pytest.mark.parametrize("scope", [{"application": "other"}, {"grants": ("g2*", "x")}])
    def test_application_or_grant_finds_nothing_and_changes_nothing(
        self, kept: Ledger, client_of: Clients, scope: dict[str, object], absorbed: bool
    ) -> None:
        job = kept.queue.send("g1", MAIL, key="k").id
        batch = kept.queue.send_many([PySend("g1", MAIL), PySend("g2", MAIL)], batch=NewBatch(open=True)).id
        if absorbed:
            kept.absorb()
        stranger = client_of("stranger", **scope)
        unknown: dict[str, tuple[Answer, ...]] = {}
        for one, other in ((f"jobs/{job}", "jobs/01a22d36-9f51-71d9-9a96-b01c024e80e5"),
                           (f"batches/{batch}", "batches/01a22d36-9f51-71d9-9a96-b01c024e80e5")):  # fmt: skip
            for path in READS[: 1 + one.startswith("jobs")]:
                unknown[one + path] = (stranger.get(f"/v1/{one}{path}"), stranger.get(f"/v1/{other}{path}"))
            for path in (
                CHANGES if one.startswith("jobs") else (*CHANGES[:1], *CHANGES[2:], "/close", "/undo", "/sends")
            ):
                given = {"sends": [SEND | {"grant_id": "g2"}]} if path == "/sends" else GIVEN.get(path)
                unknown[one + path] = tuple(stranger.post(f"/v1/{which}{path}", given) for which in (one, other))
        for path, (answer, missing) in unknown.items():
            assert (answer.status, answer.body) == (missing.status, missing.body), path
            assert answer.status == 404, (path, answer.text)
        assert stranger.get("/v1/jobs?key=k").status == 404
        assert stranger.get(f"/v1/jobs?batch_id={batch}").status == 404
        assert [one["grant_id"] for one in told(stranger.get("/v1/jobs"))["items"]] in ([], ["g2"])
        states = {one.id: (one.state, one.priority) for one in enqueued(kept.queue)}
        assert set(states.values()) == {("queued", 1)}

    @pytest.mark.parametrize("act", ["sends", "close", "cancel", "hold", "release", "reschedule", "priority"])
    def test_grant_changes_no_batch_to_which_another_adds_at_the_same_time(
        self, kept: Ledger, tokens: Path, act: str
    ) -> None:
        batch = kept.queue.send_many([PySend("g1", MAIL)], batch=NewBatch(open=True)).id
        if act == "release":
            kept.queue.hold(batch_id=batch)

        class Meanwhile(SendQueue):
            def owner(self, *given: Any, **named: Any) -> Owner:
                found = super().owner(*given, **named)
                kept.queue.add(batch, [PySend("foreign", MAIL)])
                return found

        def as_it_is() -> list[dict[str, Any]]:  # the foreign job, and the lane that is no longer the only one, apart
            rows = [*kept.rows(schema.batch), *kept.rows(schema.job)[:1]]
            return [{**row._mapping, "lane_id": None} for row in rows]

        token, text = new_token("desk", access=Access.WRITE, grants=["g1"], now=datetime.now(UTC))
        add_token(tokens, token)
        client = Client(api(Meanwhile(kept.engine), tokens=tokens), text)
        before = as_it_is()
        given = {"sends": [SEND]} if act == "sends" else GIVEN.get(f"/{act}")
        assert client.post(f"/v1/batches/{batch}/{act}", given).status == 404
        assert as_it_is() == before
        assert [row.priority for row in kept.rows(schema.job)] == [Priority.NORMAL] * 2

    def test_grant_may_not_send_through_it_or_ask_for_it(self, kept: Ledger, client_of: Clients) -> None:
        narrow = client_of(grants=("g2", "team-*"))
        for path, given in (
            ("send", SEND),
            ("send-many", {"sends": [SEND | {"grant_id": "g2"}, SEND]}),
            ("batches", {"sends": [SEND]}),
            ("modify", {"grant_id": "g1", "message_ids": ["m"], "unread": True}),
            ("delete", {"grant_id": "g1", "message_ids": ["m"]}),
        ):
            assert narrow.post(f"/v1/{path}", given).status == 403, path
        for path in ("grants/g1", "grants/g1/eta", "jobs?grant_id=g1"):
            assert narrow.get(f"/v1/{path}").status == 403
        assert enqueued(kept.queue) == []
        assert narrow.post("/v1/send", SEND | {"grant_id": "team-1"}).status == 201
        assert narrow.get("/v1/grants/g2").status == 200

    def test_grant_has_no_job_that_may_be_followed(self, kept: Ledger, client_of: Clients) -> None:
        job = kept.queue.send("g1", MAIL).id
        narrow = client_of(grants=("g2",))
        mine = SEND | {"grant_id": "g2"}
        for name in ("after", "reply_to"):
            for wrong in (job, "01a22d36-9f51-71d9-9a96-b01c024e80e5", "x", {"id": job}):
                one = narrow.post("/v1/send", mine | {name: wrong})
                many = narrow.post("/v1/send-many", {"sends": [mine, mine | {name: wrong}]})
                assert fields_of(one) == [name], one.text
                assert fields_of(many) == [f"[1].{name}"], many.text
        first = told(narrow.post("/v1/send", mine))["id"]
        assert narrow.post("/v1/send", mine | {"after": first, "delay": 3600, "unless": ["replied"]}).status == 201
        assert narrow.post("/v1/send-many", {"sends": [mine, mine | {"reply_to": 0}]}).status == 201
        assert narrow.post("/v1/send", mine | {"after": first, "unless": "bounced"}).status == 201

    def test_application_may_not_be_named(self, client: Client, kept: Ledger) -> None:
        assert client.post("/v1/send", SEND | {"application": "other"}).status == 403
        assert client.post("/v1/batches", {"sends": [SEND], "application": "other"}).status == 403
        assert client.post("/v1/send", SEND | {"application": "default"}).status == 201

    def test_grant_learns_nothing_from_a_key_that_is_in_use(self, kept: Ledger, client_of: Clients) -> None:
        kept.queue.send("g1", MAIL, key="k")
        kept.queue.send_many([PySend("g1", MAIL)], batch=NewBatch(key="b"))
        narrow = client_of(grants=("g2",))
        for path, given in (
            ("send", SEND | {"grant_id": "g2", "key": "k"}),
            ("batches", {"sends": [SEND | {"grant_id": "g2"}], "key": "b"}),
        ):
            answer = narrow.post(f"/v1/{path}", given)
            assert (answer.status, "job_id" in told(answer)) == (409, False)


class TestATokenForSeveralGrants:
    def test_sees_its_jobs_in_lists_and_its_own_batches(self, kept: Ledger, client_of: Clients) -> None:
        both = client_of(grants=("g1", "g2"))
        made = both.post("/v1/batches", {"sends": [SEND, SEND | {"grant_id": "g2", "key": "b"}]})
        assert both.get(made.headers["location"]).status == 200
        assert len(told(both.get("/v1/jobs?key=b"))["items"] or [0]) == 1
        kept.queue.send("g3", MAIL)
        kept.absorb()
        assert {one["grant_id"] for one in told(both.get("/v1/jobs"))["items"]} == {"g1", "g2"}


class TestAccess:
    def test_to_read_does_not_write(self, client_of: Clients, kept: Ledger) -> None:
        reader = client_of(access=Access.READ)
        job = kept.queue.send("g1", MAIL).id
        assert reader.get(f"/v1/jobs/{job}").status == 200
        assert reader.post("/v1/send", SEND).status == 403
        assert reader.post(f"/v1/jobs/{job}/cancel").status == 403

    def test_ends_when_a_token_expires_or_is_revoked(
        self, application: Starlette, tokens: Path, client: Client
    ) -> None:
        now = datetime.now(UTC)
        old, text = new_token("old", expires_at=now - timedelta(seconds=1), now=now - timedelta(hours=1))
        add_token(tokens, old)
        answer = Client(application, text).get("/v1/grants/g1")
        assert (answer.status, told(answer)["detail"]) == (401, "The token has expired.")
        assert client.get("/v1/grants/g1").status == 200
        assert remove_token(tokens, "shop")
        assert client.get("/v1/grants/g1").status == 401
        assert not remove_token(tokens, "shop")

    def test_without_a_valid_token_is_refused_the_same_way_and_limited(
        self, application: Starlette, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        token_id = (client.token or "").split("_")[1]
        wrong = [None, "", "x", "sendq_" + token_id + "_" + "A" * 43, "é", (client.token or "") + "x"]
        answers = [
            Client(application, one, peer=f"10.0.0.{number}").get("/v1/jobs") for number, one in enumerate(wrong)
        ]
        assert {(one.status, one.body) for one in answers} == {(401, answers[0].body)}
        assert answers[0].headers["www-authenticate"].startswith("Bearer")
        assert (client.token or "")[-20:] not in caplog.text
        again = [Client(application, "x", peer="10.1.1.1").get("/v1/jobs") for _ in range(7)]
        assert [one.status for one in again] == [401] * 5 + [429] * 2
        assert 0 < int(again[-1].headers["retry-after"]) <= 300
        assert caplog.text.count("without a valid token from 10.1.1.1") == 2
        assert Client(application, client.token, peer="10.1.1.1").get("/v1/jobs").status == 200

    def test_by_any_other_header_is_none(self, application: Starlette, client: Client) -> None:
        stranger = Client(application, None)
        for given in (f"Basic {client.token}", f"{client.token}", f"Bearer {client.token} x"):
            assert stranger.get("/v1/jobs", authorization=given).status == 401
        assert stranger.get(f"/v1/jobs?access_token={client.token}").status == 401
        assert stranger.get("/v1/jobs", authorization=f"bearer  {client.token}").status == 200

    def test_is_limited_in_requests_per_second(self, kept: Ledger, tokens: Path, client_of: Clients) -> None:
        one, other = client_of("one"), client_of("other")
        slow = api(SendQueue(kept.engine), tokens=tokens, rate=0.001)
        assert Client(slow, one.token).get("/v1/jobs").status == 200
        answer = Client(slow, one.token).get("/v1/jobs")
        assert (answer.status, int(answer.headers["retry-after"]) > 500) == (429, True)
        assert Client(slow, other.token).get("/v1/jobs").status == 200


class TestTokenFile:
    def test_has_digests_and_no_secrets(self, tokens: Path, client: Client) -> None:
        assert (client.token or "").split("_", 2)[2] not in tokens.read_text()
        assert "sha256:" in tokens.read_text()
        (token,) = TokenFile(tokens).tokens().values()
        assert "digest" not in token.as_json()
        assert "sha256" not in repr(token)

    @pytest.mark.parametrize("line", ["x", "{}", "[]", '{"name": "a"}', "5"])
    def test_that_is_wrong_names_the_line(self, tokens: Path, client: Client, line: str) -> None:
        with tokens.open("a") as file:
            file.write(f"# a comment\n\n{line}\n")
        with pytest.raises(TokenFileError, match="line 4 of the token file"):
            TokenFile(tokens)
        assert client.get("/v1/jobs").status == 503
        with pytest.raises(TokenFileError):
            remove_token(tokens, "shop")
        assert line in tokens.read_text()
        assert _beside(tokens) == ["tokens"]

    def test_keeps_its_owner_and_mode(self, tokens: Path) -> None:
        owner = (10_001, 10_001) if os.geteuid() == 0 else (os.geteuid(), os.getgroups()[-1])
        os.chown(tokens, *owner)
        tokens.chmod(0o640)
        add_token(tokens, new_token("a", now=datetime.now(UTC))[0])
        found = tokens.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (*owner, 0o640)

    @pytest.mark.parametrize("exists", [True, False])
    def test_behind_a_link_is_changed_where_it_is(self, tmp_path: Path, exists: bool) -> None:
        (tmp_path / "secrets").mkdir()
        real, link = tmp_path / "secrets" / "tokens", tmp_path / "tokens"
        link.symlink_to(real)
        if exists:
            real.touch()
        add_token(link, new_token("a", now=datetime.now(UTC))[0])
        assert link.is_symlink()
        assert [one.name for one in TokenFile(real).tokens().values()] == ["a"]
        assert _beside(real) == ["tokens"]

    def test_that_is_missing_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(TokenFileError, match="sendq token create"):
            TokenFile(tmp_path / "none")

    def test_that_is_missing_is_not_made_by_a_revocation(self, tmp_path: Path) -> None:
        with pytest.raises(TokenFileError, match="there is no token file here; name the one that the servers use"):
            remove_token(tmp_path / "tokens", "a")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("place", "says"),
        [
            ("none/tokens", "No such file or directory); make its directory first"),
            ("file/tokens", "Not a directory); name a file in a directory"),
            ("folder", "directory); name a file, not a directory"),
            ("loop/tokens", "Too many levels of symbolic links); correct its path"),
            ("other", "Operation not permitted); run it as root, or as the file's owner"),
            ("full", "No space left on device); make room for it"),
            ("bytes", "it is not UTF-8 text); restore it, or delete it and create the tokens again"),
        ],
    )
    def test_that_cannot_be_written_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, says: str
    ) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        (tmp_path / "other").write_text("")
        (tmp_path / "bytes").write_bytes(b"\xff")

        def fail(code: int) -> None:
            raise OSError(code, os.strerror(code))

        if place == "other":  # owned by another user, and we are not root
            monkeypatch.setattr("os.fchown", lambda *_: fail(errno.EPERM))
        if place == "full":
            monkeypatch.setattr("os.fsync", lambda _: fail(errno.ENOSPC))
        before = sorted(tmp_path.iterdir())
        with pytest.raises(TokenFileError) as refused:
            add_token(tmp_path / place, new_token("a", now=datetime.now(UTC))[0])
        assert says in str(refused.value)
        assert sorted(tmp_path.iterdir()) == before

    def test_takes_a_name_once_and_keeps_the_rest(self, tokens: Path) -> None:
        now = datetime.now(UTC)
        tokens.write_text("# ours\n")
        add_token(tokens, new_token("a", now=now)[0])
        with pytest.raises(ValueError, match="is already in use by another token"):
            add_token(tokens, new_token("a", now=now)[0])
        add_token(tokens, new_token("b", now=now)[0])
        assert remove_token(tokens, "a")
        assert [one.name for one in TokenFile(tokens).tokens().values()] == ["b"]
        assert tokens.read_text().startswith("# ours\n")
        assert _beside(tokens) == ["tokens"]

    def test_of_bad_scopes_names_every_problem(self) -> None:
        now = datetime.now(UTC)
        with pytest.raises(ValueError, match=r"name: .*application: .*grants: .*expires_at: "):
            new_token("a b", application="", grants=["a b"], expires_at=now, now=now)


def _beside(tokens: Path) -> list[str]:
    """The token file, and what a change left beside it."""
    return [one.name for one in tokens.parent.iterdir() if one.name.startswith("tokens")]


class TestOwner:
    """`SendQueue.owner`, on which all of this rests, on both databases."""

    def test_is_known_at_once_and_after_the_dispatcher_has_seen_it(self, ledger: Ledger) -> None:
        job = ledger.send("g1", application="shop")
        sends = [PySend(grant, MAIL, Options(application="shop")) for grant in ("g1", "g2", "g2")]
        batch = ledger.queue.send_many(sends, batch=NewBatch(application="shop")).id
        empty = ledger.queue.send_many([], batch=NewBatch(open=True)).id
        unknown = "01a22d36-9f51-71d9-9a96-b01c024e80e5"
        for _ in range(2):
            assert ledger.queue.owner(str(job)) == Owner("shop", frozenset({"g1"}))
            assert ledger.queue.owners([str(job), job.hex, unknown, "x"]) == dict.fromkeys(
                [str(job), job.hex], Owner("shop", frozenset({"g1"}))
            )
            assert ledger.queue.owner(batch_id=batch) == Owner("shop", frozenset({"g1", "g2"}))
            assert ledger.queue.owner(batch_id=empty).grant_ids == frozenset()
            ledger.absorb()
        with pytest.raises(LookupError):
            ledger.queue.owner(batch_id=str(job))
        with pytest.raises(TypeError):
            ledger.queue.owner()
