"""Building a message: what may be given, how a wrong type is reported, and that nothing of it leaks."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sendq.errors import InvalidJob
from sendq.messages.fields import CustomHeader, Recipient, TrackingOptions
from sendq.messages.message import Message

SECRET = "geheim-7731"


def problems_of(**fields: Any) -> dict[str, str]:
    """The problems of building a message from ``fields``, by field."""
    with pytest.raises(InvalidJob) as caught:
        Message(**fields)
    return {problem.field: problem.reason for problem in caught.value.problems}


class SafeString(str):
    """What template engines return."""


class TestBuilding:
    @pytest.mark.parametrize(
        "person",
        [
            "Leyah <leyah@example.com>",
            {"email": "leyah@example.com", "name": "Leyah"},
            Recipient(email="leyah@example.com", name="Leyah"),
            Recipient("leyah@example.com", "Leyah"),
        ],
    )
    def test_a_recipient_may_be_written_in_several_ways(self, person: Any) -> None:
        assert Message(to=[person]).to == (Recipient(email="leyah@example.com", name="Leyah"),)

    def test_the_name_of_a_recipient_may_be_left_out(self) -> None:
        assert Message(to=["leyah@example.com"]).to[0].name is None

    @pytest.mark.parametrize("fields", [{"from_": ["a@example.com"]}, {"from": ["a@example.com"]}])
    def test_the_sender_is_from_or_from_with_an_underscore(self, fields: dict[str, Any]) -> None:
        assert Message(to=["b@example.com"], **fields).from_ == (Recipient("a@example.com"),)

    def test_none_means_left_out(self) -> None:
        bare = Message(to=["a@example.com"])
        assert Message(to=["a@example.com"], cc=None, subject=None, metadata=None, tracking_options=None) == bare

    def test_any_iterable_of_recipients_will_do(self) -> None:
        assert len(Message(to=(f"a{number}@example.com" for number in range(3))).to) == 3

    def test_headers_and_tracking_may_be_dicts(self) -> None:
        message = Message(
            to=["a@example.com"], custom_headers=[{"name": "X-Order", "value": "42"}], tracking_options={"opens": True}
        )
        assert message.custom_headers == (CustomHeader(name="X-Order", value="42"),)
        assert message.tracking_options == TrackingOptions(opens=True)

    def test_a_string_of_a_template_engine_is_a_string(self) -> None:
        assert Message(to=["a@example.com"], body=SafeString("<p>")).body == "<p>"

    def test_it_does_not_change(self) -> None:
        with pytest.raises(AttributeError, match="model_copy") as caught:
            Message(to=["a@example.com"]).subject = SECRET  # type: ignore[misc]
        assert SECRET not in str(caught.value)

    def test_a_copy_with_other_fields_is_checked_like_a_new_one(self) -> None:
        base = Message(to=["a@example.com"], subject="s", from_=["c@example.com"])
        assert base.model_copy(update={"to": ["b@example.com"]}).to == (Recipient("b@example.com"),)
        with pytest.raises(InvalidJob):
            base.model_copy(update={"to": "b@example.com"})

    def test_it_survives_pickling(self) -> None:
        message = Message(to=["a@example.com"], metadata={"order": "1"})
        assert pickle.loads(pickle.dumps(message)) == message

    def test_it_can_be_a_field_of_an_applications_own_model(self) -> None:
        class Order(BaseModel):
            message: Message

        text = '{"message": {"to": [{"email": "a@example.com"}], "from": ["b@example.com"]}}'
        assert Order.model_validate_json(text).message.from_ == (Recipient("b@example.com"),)
        with pytest.raises(ValidationError):
            Order.model_validate({"message": {"to": "a@example.com"}})


class TestAWrongType:
    @pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to", "from_"])
    @pytest.mark.parametrize(
        "value", ["a@example.com", b"a@example.com", {"email": "a@example.com"}, Recipient("a@example.com"), 5]
    )
    def test_recipients_must_be_in_a_list(self, field: str, value: object) -> None:
        assert problems_of(**{"to": ["b@example.com"], field: value}) == {field.rstrip("_"): "is not a list"}

    def test_each_wrong_recipient_is_named_by_its_index(self) -> None:
        found = problems_of(
            to=["a@example.com", 5, {"name": "A"}, {"email": 7}, {"email": "b@c.de", "nmae": "B"}, {1: 2}]
        )
        assert found == {
            "to[1]": "has the wrong type",
            "to[2].email": "is missing",
            "to[3].email": "is not a string",
            "to[4].nmae": "is not a known field",
            "to[5]": "has the wrong type",
        }

    @pytest.mark.parametrize(
        ("field", "value", "path", "reason"),
        [
            ("subject", 5, "subject", "is not a string"),
            ("subject", b"bytes", "subject", "is not a string"),
            ("body", float("nan"), "body", "is not a string"),
            ("is_plaintext", 1, "is_plaintext", "is not True or False"),
            ("is_plaintext", "yes", "is_plaintext", "is not True or False"),
            ("metadata", ["a"], "metadata", "is not a mapping"),
            ("metadata", {"order": 5}, "metadata[order]", "is not a string"),
            ("metadata", {"order": float("nan")}, "metadata[order]", "is not a string"),
            ("metadata", {"order": float("inf")}, "metadata[order]", "is not a string"),
            ("metadata", {"order": None}, "metadata[order]", "is not a string"),
            ("metadata", {5: "order"}, "metadata[…]", "is not a string"),
            ("custom_headers", {"X-A": "b"}, "custom_headers", "is not a list"),
            ("custom_headers", [{"name": "X-A"}], "custom_headers[0].value", "is missing"),
            ("custom_headers", [{"name": "X-A", "value": 5}], "custom_headers[0].value", "is not a string"),
            ("tracking_options", True, "tracking_options", "has the wrong type"),
            ("tracking_options", {"opens": 1}, "tracking_options.opens", "is not True or False"),
            ("sbject", "typo", "sbject", "is not a known field"),
            ("send_at", 1_900_000_000, "send_at", "schedules the message at Nylas"),
            ("use_draft", True, "use_draft", "belongs to scheduled sends of Nylas"),
            ("shared_from", "team@example.com", "shared_from", "is a parameter of listings and changes, not of sends"),
            ("query_imap", True, "query_imap", "is a parameter of listings and changes, not of sends"),
            ("a@example.com", "x", "…", "is not a known field"),
        ],
    )
    def test_is_reported_with_its_field(self, field: str, value: object, path: str, reason: str) -> None:
        found = problems_of(**{"to": ["a@example.com"], field: value})
        assert found.keys() == {path}
        assert found[path].startswith(reason)

    def test_brings_along_every_other_problem_of_the_message(self) -> None:
        found = problems_of(
            to="a@example.com", cc=["nobody"], from_=["nobody"], subject="a\nb", body=5, metadata={"k" * 41: "v"}
        )
        assert set(found) == {"to", "cc[0].email", "from[0].email", "subject", "body", "metadata[…]"}

    def test_does_not_blame_a_generator_for_being_used_up(self) -> None:
        assert set(problems_of(to=(one for one in ["a@example.com"]), subject=5)) == {"subject"}

    def test_a_generator_that_raises_is_not_disguised(self) -> None:
        def people() -> Any:
            yield "a@example.com"
            raise LookupError("the caller's own")

        with pytest.raises(LookupError, match="the caller's own"):
            Message(to=people())

    @pytest.mark.parametrize("part", [lambda: Recipient(5), lambda: CustomHeader(name="X", value=5), Recipient])  # type: ignore[arg-type]
    def test_of_a_part_is_the_same_error(self, part: Any) -> None:
        with pytest.raises(InvalidJob):
            part()


class TestDiscretion:
    def test_a_repr_shows_which_fields_there_are_and_nothing_of_them(self) -> None:
        message = Message(to=[f"{SECRET}@example.com"], subject=SECRET, metadata={"order": SECRET})
        assert repr(message) == str(message) == "Message(metadata=…, subject=…, to=…)"
        assert SECRET not in repr(message.to)

    def test_neither_does_the_traceback_of_an_error(self) -> None:
        with pytest.raises(InvalidJob) as caught:
            Message(to=f"{SECRET}@example.com", subject=[SECRET], metadata={f"{SECRET}@": 5, "a": [SECRET]})  # type: ignore[arg-type,dict-item]
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None
        assert SECRET not in repr(caught.value)

    @given(
        field=st.sampled_from(["to", "cc", "from_", "subject", "body", "is_plaintext", "metadata", "custom_headers"]),
        wrap=st.sampled_from(
            [
                lambda value: value,
                lambda value: [value],
                lambda value: {"email": value},
                lambda value: [{"email": value, "name": 5}],
                lambda value: {f"{value}@x": value},
                lambda value: {"a": [value]},
                lambda value: [{"name": value, "value": value}],
                lambda value: [{f"{value}\n": value}],
            ]
        ),
        around=st.text(max_size=5),
    )
    def test_no_error_of_any_kind_of_input_shows_it(self, field: str, wrap: Any, around: str) -> None:
        with pytest.raises(InvalidJob) as caught:
            Message(**{"to": 5, "cc": 5, field: wrap(f"{around}{SECRET}{around}")})
        assert SECRET not in str(caught.value)
