"""Mail merge: from rows to messages, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq import InvalidJob, Message, Options, Send
from sendq.enqueueing.batch_sends import SHARED_LEAST, Refused
from sendq.enqueueing.merging import check_merge, merge_problems, merged
from sendq.messages.fields import Template

ANN = {"email": "ann@example.com", "name": "Ann", "first_name": "Ann <3", "key": "may-1"}


def one(message: Message, row: Mapping[str, str] = ANN, **given: Any) -> Send:
    (send,) = merged("g1", message, [row], options=Options(priority="low"), **given)
    assert isinstance(send, Send), send
    return send


def refused(*rows: Any, message: Message | None = None) -> list[str]:
    number, problems = merge_problems(
        "g1", message or Message(subject="Hello {{first_name}}", body="x"), rows, options=Options(), now=1_000_000,
        unsubscribe_url="https://mail.example.com/u", metadata_key="key1", most=10,
    )  # fmt: skip
    assert number == len(rows)
    return [f"{problem.field}: {problem.reason}" for problem in problems]


class TestAMergedMessage:
    def test_has_the_fields_of_its_row(self) -> None:
        send = one(Message(subject="Hi {{first_name}}", body="<p>{{ first_name }}, {{first_name}}</p>"))
        assert isinstance(send.message, Message)
        assert send.message.subject == "Hi Ann <3"
        assert send.message.body == "<p>Ann &lt;3, Ann &lt;3</p>"
        assert (send.message.to[0].email, send.message.to[0].name) == ("ann@example.com", "Ann")
        assert (send.options.key, send.options.priority) == ("may-1", "low")

    def test_in_plain_text_is_not_escaped(self) -> None:
        send = one(Message(subject="x", body="{{first_name}}", is_plaintext=True))
        assert isinstance(send.message, Message)
        assert send.message.body == "Ann <3"

    def test_with_a_template_of_nylas_leaves_the_rendering_to_it(self) -> None:
        send = one(Message(template=Template(id="t1", variables={"shop": "Tea"})))
        assert isinstance(send.message, Message)
        assert send.message.template is not None
        assert send.message.template.variables == {"shop": "Tea", **ANN}

    def test_may_be_made_by_the_application(self) -> None:
        def render(message: Message, row: Mapping[str, str]) -> Message:
            return message.model_copy(update={"subject": row["first_name"].upper()})

        send = one(Message(subject="x", body="x"), render=render)
        assert isinstance(send.message, Message)
        assert (send.message.subject, send.message.to[0].email) == ("ANN <3", "ann@example.com")

    @given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=20), max_size=4))
    def test_takes_values_as_they_are(self, fields: dict[str, str]) -> None:
        """A value that looks like a placeholder is none."""
        row = fields | {"email": "ann@example.com", "key": ""}
        text = " ".join(f"{{{{{name}}}}}" for name in row)
        send = one(Message(subject="x", body=text, is_plaintext=True), row)
        assert isinstance(send.message, Message)
        assert send.message.body == " ".join(row.values())


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([{"email": "a@example.com"}], ["[0].row: has no value for {{first_name}}"]),
            ([{"first_name": "A"}, ANN], ["[0].email: is missing"]),
            ([{"email": " ", "first_name": "A"}], ["[0].email: is missing"]),
            ([ANN, {"email": "nobody", "first_name": "B"}], ["[1].to[0].email: is not an email address"]),
            ([ANN, ANN | {"email": "ANN@example.com ", "key": "2"}],
             ["[1].email: is the same address as that of [0]"]),
            ([ANN, ANN | {"email": "bob@example.com"}], ["[1].key: is the same as the key of [0]"]),
            ([{"email": "a@example.com", "first_name": 5}], ["[0].row: is not a dict of strings"]),
            (["ann@example.com"], ["[0].row: is not a dict of strings"]),
            ([{"email": "a@example.com", "first_name": "\ud800"}],
             ["[0].subject: contains a lone surrogate (half of a character)"]),
            ([Refused(()), ANN], []),
        ],
    )  # fmt: skip
    def test_is_named_by_its_row(self, rows: list[Any], said: list[str]) -> None:
        assert refused(*rows) == said

    @pytest.mark.parametrize(
        ("message", "said"),
        [
            (Message(subject="{{a}}", body="{{b}}"), ["subject: ", "body: "]),
            (Message(subject="x", body="{{a}}" * SHARED_LEAST), ["body: "]),
            (Message(template=Template(id="t1")),
             ["template.variables[a]: has a value that ", "template.variables[b]: has a value that "]),
        ],
    )  # fmt: skip
    def test_is_half_of_a_character_in_a_field(self, message: Message, said: list[str]) -> None:
        rows = [{"a": "\ud800", "b": "x\udfff", "email": f"{name}@example.com"} for name in ("ann", "bob")]
        fault = "contains a lone surrogate (half of a character)"
        assert refused(*rows, message=message) == [f"[{at}].{one}{fault}" for at in (0, 1) for one in said]

    def test_is_a_message_with_recipients_or_a_key_for_all(self) -> None:
        with pytest.raises(InvalidJob) as wrong:
            check_merge(Message(to=["ann@example.com"], subject="x"), Options(key="k"))
        assert [problem.field for problem in wrong.value.problems] == ["message.to", "key"]
        with pytest.raises(InvalidJob, match=r"is not a sendq\.Message"):
            check_merge("Hello", Options())

    def test_no_value_is_shown(self) -> None:
        secret = {"email": "ann@@example.com", "first_name": "secret"}
        (said,) = refused(secret)
        assert "ann" not in said
        assert "secret" not in said
