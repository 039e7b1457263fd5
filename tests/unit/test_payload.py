"""The bytes that go over the wire, and the digests that stand for what a caller asked for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.messages.fields import CustomHeader, Recipient, TrackingOptions
from sendq.messages.forms import encoded
from sendq.messages.message import Message
from sendq.messages.payload import bulk_digest, content_digest, freeze_changes, freeze_send, send_digest, send_text

JOB_ID = "0197a1b2-0000-7000-8000-000000000001"
DUE = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)

# Any text but lone surrogates, which a check refuses before anything is frozen.
texts = st.text(st.characters(codec="utf-8"), max_size=30)
people = st.lists(
    st.builds(Recipient, st.sampled_from(["a@example.com", "b@bücher.example"]), st.none() | texts), max_size=3
)
messages = st.builds(
    Message,
    to=people.filter(bool),
    cc=people,
    bcc=people,
    reply_to=people,
    from_=people,
    subject=st.none() | texts,
    body=st.none() | texts,
    is_plaintext=st.none() | st.booleans(),
    reply_to_message_id=st.none() | texts,
    custom_headers=st.lists(st.builds(CustomHeader, name=texts, value=texts), max_size=3),
    metadata=st.none() | st.dictionaries(texts, texts, max_size=3),
    tracking_options=st.none() | st.builds(TrackingOptions, opens=st.none() | st.booleans(), label=st.none() | texts),
)


def thawed(message: Message, **options: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(freeze_send(message, job_id=JOB_ID, **options))
    return loaded


class TestFreezingASend:
    def test_gives_exactly_these_bytes(self) -> None:
        message = Message(to=["Leyah <leyah@example.com>"], subject="Grüße", body='<p class="x">\n</p>')
        assert freeze_send(message, job_id="J").decode() == (
            '{"to":[{"email":"leyah@example.com","name":"Leyah"}],"subject":"Grüße","body":"<p class=\\"x\\">\\n</p>",'
            '"metadata":{"key1":"J"},"custom_headers":[{"name":"X-Sendq-Job","value":"J"}]}'
        )

    @given(messages, texts)
    def test_adds_nothing_but_the_mark_to_what_the_digest_is_made_of(self, message: Message, job_id: str) -> None:
        """The text that both share, parsed and encoded as a whole."""
        text = send_text(message)
        fields = json.loads(text.plain())
        assert text.plain() == encoded(fields)
        fields["metadata"] = {**fields.get("metadata", {}), "key1": job_id}
        fields["custom_headers"] = [*fields.get("custom_headers", ()), {"name": "X-Sendq-Job", "value": job_id}]
        assert text.marked(job_id, "key1") == encoded(fields)
        body = fields.pop("body", None)
        assert text.marked(job_id, "key1", body=False) == encoded(fields)
        if body is not None:
            assert send_text(message, escaped_body=encoded(body)[1:-1]) == text

    def test_uses_the_names_of_the_api_for_every_field(self) -> None:
        message = Message(
            to=["a@example.com"],
            cc=["b@example.com"],
            bcc=["c@example.com"],
            reply_to=["d@example.com"],
            from_=["e@example.com"],
            subject="s",
            body="b",
            is_plaintext=True,
            reply_to_message_id="id",
            custom_headers=[CustomHeader(name="X-A", value="v")],
            metadata={"order": "1"},
            tracking_options=TrackingOptions(opens=True, label="l"),
        )
        assert thawed(message) == {
            "to": [{"email": "a@example.com"}],
            "cc": [{"email": "b@example.com"}],
            "bcc": [{"email": "c@example.com"}],
            "reply_to": [{"email": "d@example.com"}],
            "from": [{"email": "e@example.com"}],
            "subject": "s",
            "body": "b",
            "is_plaintext": True,
            "reply_to_message_id": "id",
            "custom_headers": [{"name": "X-A", "value": "v"}, {"name": "X-Sendq-Job", "value": JOB_ID}],
            "metadata": {"order": "1", "key1": JOB_ID},
            "tracking_options": {"opens": True, "label": "l"},
        }

    def test_leaves_out_what_was_not_set_and_keeps_what_was_set_to_nothing(self) -> None:
        assert set(thawed(Message(to=["a@example.com"]))) == {"to", "metadata", "custom_headers"}
        frozen = thawed(Message(to=["a@example.com"], subject="", is_plaintext=False))
        assert (frozen["subject"], frozen["is_plaintext"]) == ("", False)

    def test_turns_a_domain_into_its_ascii_form(self) -> None:
        assert thawed(Message(to=["leyah@bücher.example"]))["to"] == [{"email": "leyah@xn--bcher-kva.example"}]

    def test_marks_the_job_under_the_key_of_the_settings(self) -> None:
        assert thawed(Message(to=["a@example.com"]), metadata_key="key3")["metadata"] == {"key3": JOB_ID}

    def test_leaves_the_message_as_it_was(self) -> None:
        message = Message(to=["a@example.com"], metadata={"order": "1"})
        freeze_send(message, job_id=JOB_ID)
        assert message == Message(to=["a@example.com"], metadata={"order": "1"})

    @given(messages)
    def test_gives_compact_json_in_utf8(self, message: Message) -> None:
        frozen = freeze_send(message, job_id=JOB_ID)
        text = frozen.decode("utf-8")
        assert json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) == text

    @given(messages)
    def test_gives_equal_bytes_for_equal_messages(self, message: Message) -> None:
        turned = dict(reversed(message.metadata.items())) if message.metadata else message.metadata
        again = message.model_copy(update={"metadata": turned})
        assert again == message
        assert freeze_send(again, job_id=JOB_ID) == freeze_send(message, job_id=JOB_ID)

    @given(messages)
    def test_loses_no_text(self, message: Message) -> None:
        frozen = thawed(message)
        assert frozen.get("subject") == message.subject
        assert frozen.get("body") == message.body
        assert [person.get("name") for person in frozen["to"]] == [person.name or None for person in message.to]


class TestFreezingChanges:
    def test_gives_exactly_the_fields_that_change(self) -> None:
        assert freeze_changes(unread=False) == b'{"unread":false}'
        assert freeze_changes(starred=True, folders=("INBOX",)) == b'{"starred":true,"folders":["INBOX"]}'
        assert (
            freeze_changes(folders=[], metadata={"b": "é", "a": "1"})
            == '{"folders":[],"metadata":{"a":"1","b":"é"}}'.encode()
        )


class TestTheDigestOfASend:
    base = Message(to=["a@example.com"], subject="s", metadata={"a": "1", "b": "2"})

    def digest(self, message: Message | None = None, **options: Any) -> bytes:
        return send_digest(message or self.base, **{"application": "default", "grant_id": "g1", **options})

    def test_is_the_same_for_good(self) -> None:
        # Stored digests are compared with new ones for years: if this fails, every repeated key becomes a conflict.
        expected = "b3eca58a09fe4b403e540f19b3f3149611ca08c5e381c4b1f881f366cf48d343"
        assert self.digest(due_at=DUE).hex() == expected

    def test_knows_nothing_of_the_job(self) -> None:
        assert self.digest() == self.digest(self.base.model_copy())

    @pytest.mark.parametrize(
        "update",
        [
            {"to": ["b@example.com"]},
            {"cc": ["a@example.com"]},
            {"subject": None},
            {"subject": ""},
            {"body": "s"},
            {"is_plaintext": False},
            {"metadata": {"a": "1"}},
            {"custom_headers": [{"name": "X", "value": "y"}]},
        ],
    )
    def test_differs_with_the_message(self, update: dict[str, Any]) -> None:
        assert self.digest(self.base.model_copy(update=update)) != self.digest()

    @pytest.mark.parametrize(
        "options", [{"application": "other"}, {"grant_id": "g2"}, {"due_at": DUE}, {"expires_at": DUE}]
    )
    def test_differs_with_application_grant_and_times(self, options: dict[str, Any]) -> None:
        assert self.digest(**options) != self.digest()

    def test_tells_the_two_times_apart(self) -> None:
        assert self.digest(due_at=DUE) != self.digest(expires_at=DUE)

    def test_takes_the_same_instant_in_another_zone_for_the_same(self) -> None:
        assert self.digest(due_at=DUE.astimezone(timezone(timedelta(hours=9)))) == self.digest(due_at=DUE)

    def test_does_not_let_one_part_run_into_the_next(self) -> None:
        assert content_digest("send", "a", "bc", b"") != content_digest("send", "ab", "c", b"")
        assert content_digest("send", "a", "b\n", b"c") != content_digest("send", "a", "b", b"\nc")

    @given(messages, messages)
    def test_is_equal_exactly_for_what_freezes_equal(self, one: Message, other: Message) -> None:
        same = freeze_send(one, job_id=JOB_ID) == freeze_send(other, job_id=JOB_ID)
        assert (self.digest(one) == self.digest(other)) is same


class TestTheDigestOfABulkCall:
    def digest(self, ids: list[str], changes: bytes = b'{"unread":false}', **options: Any) -> bytes:
        named = {"operation": "modify", "application": "default", "grant_id": "g1", **options}
        return bulk_digest(ids=ids, request=changes, **named)

    def test_does_not_depend_on_the_order_of_the_ids(self) -> None:
        assert self.digest(["a", "b"]) == self.digest(["b", "a"])

    def test_is_that_of_all_ids_however_many_there_are(self) -> None:
        ids = [f"m{number}" for number in range(2_500)]
        whole = json.dumps(sorted(ids), separators=(",", ":")).encode()
        assert self.digest(ids) == content_digest("modify", "default", "g1", whole + b'\n{"unread":false}')

    def test_differs_with_ids_changes_and_operation(self) -> None:
        digests = {
            self.digest(["a", "b"]),
            self.digest(["ab"]),
            self.digest(["a,b"]),
            self.digest(["a"]),
            self.digest(["a"], b'{"unread":true}'),
            self.digest(["a"], due_at=DUE),
            self.digest(["a"], operation="delete"),
            content_digest("send", "default", "g1", b'["a"]\n{"unread":false}'),
        }
        assert len(digests) == 8
