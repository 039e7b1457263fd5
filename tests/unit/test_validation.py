"""Every rule that a message or a modification must keep before it becomes a job."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.enqueueing.validation import MAX_RECIPIENTS_MICROSOFT, check_changes, check_message
from sendq.errors import InvalidJob, Problem
from sendq.messages.fields import CustomHeader, TrackingOptions
from sendq.messages.forms import MAX_JSON_BYTES, MAX_MULTIPART_BYTES
from sendq.messages.message import Message
from sendq.messages.payload import freeze_send

JOB_ID = "0197a1b2-0000-7000-8000-000000000001"


def problems_of(
    *,
    provider: str | None = None,
    metadata_key: str = "key1",
    max_request_bytes: int = MAX_JSON_BYTES,
    **fields: Any,
) -> dict[str, str]:
    """The reasons of what is wrong with a message made of ``fields`` (and one good recipient), by field."""
    message = Message(**{"to": ["leyah@example.com"], **fields})
    found = check_message(message, provider=provider, metadata_key=metadata_key, max_request_bytes=max_request_bytes)
    return {problem.field: problem.reason for problem in found}


def headers(**named: str) -> list[CustomHeader]:
    return [CustomHeader(name=name.replace("_", "-"), value=value) for name, value in named.items()]


class TestASoundMessage:
    def test_has_no_problem(self) -> None:
        assert (
            problems_of(
                to=["Leyah <leyah@bücher.example>"],
                cc=["nyah@example.com"],
                bcc=[{"email": "b@example.com", "name": "Bé\tB"}],
                reply_to=["r@example.com"],
                from_=["Sales <sales@example.com>"],
                subject="Grüße 👋",
                body="<p>\r\n\t…</p>",
                is_plaintext=False,
                reply_to_message_id="<a@b>",
                custom_headers=headers(X_Order="42", List_Unsubscribe="<https://example.com/u>"),
                metadata={f"pair{number}": "v" * 500 for number in range(48)} | {"k" * 40: ""},
                tracking_options=TrackingOptions(opens=True, label="l" * 2048, domain_name="d" * 253),
                provider="microsoft",
            )
            == {}
        )

    def test_needs_neither_subject_nor_body(self) -> None:
        assert problems_of() == {}


class TestRecipients:
    @pytest.mark.parametrize("fields", [{}, {"to": []}, {"cc": ["a@example.com"]}, {"bcc": ["a@example.com"]}])
    def test_there_must_be_one_in_to(self, fields: dict[str, Any]) -> None:
        assert problems_of(**{"to": None, **fields}) == {"to": "has no recipient"}

    @pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to", "from"])
    def test_each_needs_an_address_that_is_one(self, field: str) -> None:
        good = "a@example.com"
        people = ["nobody"] if field == "from" else [good, "nobody", good, "a@b"]
        fields: dict[str, Any] = {field: people}
        found = problems_of(**fields)
        assert set(found) == ({"from[0].email"} if field == "from" else {f"{field}[1].email", f"{field}[3].email"})
        assert set(found.values()) == {"is not an email address"}

    def test_a_local_part_outside_ascii_cannot_be_delivered(self) -> None:
        assert "Nylas cannot deliver" in problems_of(to=["jösé@example.com"])["to[0].email"]

    def test_a_domain_outside_ascii_can(self) -> None:
        assert problems_of(to=["leyah@bücher.example"]) == {}

    def test_there_is_at_most_one_sender(self) -> None:
        assert problems_of(from_=["a@example.com", "b@example.com"]) == {"from": "has more than one sender"}

    @pytest.mark.parametrize("split", [(501, 0, 0), (1, 500, 0), (200, 200, 101)])
    def test_microsoft_takes_500_of_them_counting_to_cc_and_bcc(self, split: tuple[int, int, int]) -> None:
        to, cc, bcc = (["a@example.com"] * count for count in split)
        assert set(problems_of(to=to, cc=cc, bcc=bcc, provider="microsoft")) == {"to, cc, bcc"}
        assert problems_of(to=to[1:] or to, cc=cc[1:], bcc=bcc, provider="microsoft") == {}

    @pytest.mark.parametrize("provider", ["google", "ews", "imap", "unknown", None])
    def test_others_may_take_more(self, provider: str | None) -> None:
        assert problems_of(to=["a@example.com"] * (MAX_RECIPIENTS_MICROSOFT + 1), provider=provider) == {}


class TestCharacters:
    @pytest.mark.parametrize(
        ("character", "word"),
        [
            ("\r", "line break"),
            ("\n", "line break"),
            ("\0", "NUL"),
            ("\ud800", "lone surrogate"),
            ("\udfff", "surrogate"),
            *((one, f"line break (U+{ord(one):04X})") for one in "\v\f\x1c\x1d\x1e\x85\u2028\u2029"),
            *((one, f"control character (U+{ord(one):04X})") for one in "\x01\a\b\x1b\x1f\x7f\x80\x9b"),
            *((one, "overrides the direction") for one in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"),
            ("\u202aa\u202c\u202c", "overrides the direction"),
            ("\u202d1\u202c", "overrides the direction"),
        ],
    )
    @pytest.mark.parametrize(
        ("field", "make"),
        [
            ("subject", lambda text: {"subject": text}),
            ("to[0].name", lambda text: {"to": [{"email": "a@example.com", "name": text}]}),
            ("from[0].name", lambda text: {"from_": [{"email": "a@example.com", "name": text}]}),
            ("custom_headers[1].value", lambda text: {"custom_headers": headers(X_A="a", X_B=text)}),
            ("reply_to_message_id", lambda text: {"reply_to_message_id": text}),
            ("tracking_options.label", lambda text: {"tracking_options": {"label": text}}),
            ("tracking_options.domain_name", lambda text: {"tracking_options": {"domain_name": text}}),
        ],
    )
    def test_a_header_takes_no_line_break_and_nothing_unseen_that_changes_the_text(
        self, field: str, make: Any, character: str, word: str
    ) -> None:
        for text in (character, f"a{character}b", f"é{character}"):
            assert word in problems_of(**make(text))[field]

    @pytest.mark.parametrize(("character", "word"), [("\0", "NUL"), ("\ud800", "lone surrogate")])
    def test_a_body_takes_no_nul_or_lone_surrogate(self, character: str, word: str) -> None:
        assert word in problems_of(body=f"a{character}b")["body"]

    def test_all_faults_of_one_text_are_named(self) -> None:
        reason = problems_of(subject="\0\ud800\n")["subject"]
        assert "NUL" in reason
        assert "surrogate" in reason
        assert "line break" in reason

    @pytest.mark.parametrize(
        "text", ["\t", "\u00a0", "👩‍👩‍👧", "مرحبا \u200f", "\ufffd", "\u2068Leyah\u2069, \u2067a\u2066b\u2069\u2069"]
    )
    def test_anything_else_may_stand_in_a_header(self, text: str) -> None:
        assert problems_of(subject=text) == {}


class TestCustomHeaders:
    @pytest.mark.parametrize(
        "name", ["", "X Order", "X-Order:", "X-Örder", "X-Order\n", "\0", "X\tA", "\ud800", "\x7f"]
    )
    def test_the_name_is_printable_ascii_without_colon(self, name: str) -> None:
        assert problems_of(custom_headers=[{"name": name, "value": "v"}]) == {
            "custom_headers[0].name": "is not a valid header name"
        }

    @pytest.mark.parametrize("name", ["X-Sendq-Job", "x-sendq-job", "X-SENDQ-JOB"])
    def test_our_own_is_reserved(self, name: str) -> None:
        assert (
            "sendq sets itself" in problems_of(custom_headers=[{"name": name, "value": "v"}])["custom_headers[0].name"]
        )

    @pytest.mark.parametrize("name", ["To", "bcc", "Subject", "From", "Reply-To", "Content-Type", "MIME-Version"])
    def test_one_that_a_field_makes_is_refused(self, name: str) -> None:
        found = problems_of(custom_headers=[{"name": name, "value": "v"}])
        assert found == {"custom_headers[0].name": "is a header that Nylas makes from the message's fields"}

    @pytest.mark.parametrize(
        "name",
        [
            "Resent-To", "resent-bcc", "Resent-From", "Resent-Message-ID", "Apparently-To", "Return-Path", "Sender",
            "DKIM-Signature", "ARC-Seal", "Authentication-Results", "Received", "Errors-To", "Delivered-To",
        ],
    )  # fmt: skip
    def test_one_that_would_send_or_forge_is_refused(self, name: str) -> None:
        found = problems_of(custom_headers=[{"name": name, "value": "v"}])
        assert found["custom_headers[0].name"].startswith("is a header that sends to others")


class TestMetadata:
    def test_our_own_key_is_an_error_whatever_it_is_called(self) -> None:
        assert set(problems_of(metadata={"key1": "mine"})) == {"metadata[key1]"}
        assert set(problems_of(metadata={"key2": "mine"}, metadata_key="key2")) == {"metadata[key2]"}
        assert problems_of(metadata={"key1": "mine"}, metadata_key="key2") == {}

    def test_49_pairs_fit_beside_ours(self) -> None:
        pairs = {f"pair{number}": "v" for number in range(50)}
        assert problems_of(metadata=pairs) == {"metadata": "has more than 49 pairs (sendq needs one of the 50)"}
        del pairs["pair0"]
        assert problems_of(metadata=pairs) == {}

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("k" * 41, "v", "has a key of more than 40 characters"),
            ("order", "v" * 501, "has a value of more than 500 characters"),
            ("", "v", "has an empty key"),
            ("a\0", "v", "has a key that contains a NUL character"),
            ("\ud800", "v", "has a key that contains a lone surrogate (half of a character)"),
            ("order", "\0", "has a value that contains a NUL character"),
            ("order", "\ud800", "has a value that contains a lone surrogate (half of a character)"),
        ],
    )
    def test_keys_and_values_keep_their_limits(self, key: str, value: str, reason: str) -> None:
        assert list(problems_of(metadata={key: value}).values()) == [reason]

    def test_a_value_may_have_several_lines(self) -> None:
        assert problems_of(metadata={"note": "a\r\nb"}) == {}


class TestOtherFields:
    def test_a_reply_needs_the_id_of_a_message(self) -> None:
        assert problems_of(reply_to_message_id="") == {"reply_to_message_id": "is empty"}

    @pytest.mark.parametrize(("field", "longest"), [("label", 2048), ("domain_name", 253)])
    def test_tracking_texts_keep_their_limits(self, field: str, longest: int) -> None:
        found = problems_of(tracking_options={field: "x" * (longest + 1)})
        assert found == {f"tracking_options.{field}": f"has more than {longest:,} characters"}
        assert problems_of(tracking_options={field: "x" * longest}) == {}


class TestTheSizeOfTheRequest:
    @pytest.mark.parametrize("character", ["a", "é", "€", "👋", "\x01", '"'])
    def test_counts_the_frozen_bytes_exactly(self, character: str) -> None:
        fields: dict[str, Any] = {"to": ["leyah@example.com"], "subject": "Invoice 42", "body": character * 1000}
        size = len(freeze_send(Message(**fields), job_id=JOB_ID))
        assert problems_of(**fields, max_request_bytes=size) == {}
        assert problems_of(**fields, max_request_bytes=size - 1) == {
            "body": f"makes the request {size:,} bytes long; the limit is {size - 1:,}"
        }

    def test_is_25_megabytes_at_most(self) -> None:
        assert set(problems_of(body="x" * 25_000_000, max_request_bytes=MAX_MULTIPART_BYTES)) == {"body"}
        assert problems_of(body="x" * 24_999_000, max_request_bytes=MAX_MULTIPART_BYTES) == {}

    def test_blames_the_largest_field(self) -> None:
        many = [f"a{number}@example.com" for number in range(100)]
        assert set(problems_of(bcc=many, body="short", max_request_bytes=1000)) == {"bcc"}

    def test_is_told_beside_other_problems(self) -> None:
        assert set(problems_of(to=["nobody"], subject="a\nb", body="x" * 3_000_000)) == {
            "to[0].email",
            "subject",
            "body",
        }

    def test_is_left_out_for_what_cannot_be_encoded(self) -> None:
        assert set(problems_of(subject="\ud800", body="x" * 3_000_000)) == {"subject"}

    @given(st.data())
    def test_no_message_is_taken_for_smaller_than_it_is(self, data: st.DataObject) -> None:
        text = st.text(st.sampled_from('a"\\\x01é👋'), max_size=20)
        message = Message(
            to=["a@bücher.example", *data.draw(st.lists(st.just("a@例え.jp"), max_size=30))],
            subject=data.draw(text),
            body=data.draw(text),
            custom_headers=[CustomHeader(name="X-A", value=value) for value in data.draw(st.lists(text, max_size=30))],
            metadata=data.draw(st.dictionaries(text.filter(bool), text, max_size=30)),
            tracking_options=TrackingOptions(label=data.draw(text)),
        )
        size = len(freeze_send(message, job_id=JOB_ID))
        found = check_message(message, provider=None, metadata_key="key1", max_request_bytes=size - 1)
        assert any("bytes long" in problem.reason for problem in found)


class TestDiscretion:
    @given(
        field=st.sampled_from(["to", "cc", "bcc", "reply_to", "from_", "subject", "body", "reply_to_message_id"]),
        before=st.text(max_size=5),
        after=st.sampled_from(["", "\0", "\n", "\ud800", "@", "@é", "<a@b>", "é@example.com", "x" * 300]),
    )
    def test_no_problem_of_a_text_shows_it(self, field: str, before: str, after: str) -> None:
        text = f"{before}geheim-7731{after}"
        value: Any = (
            text if field in ("subject", "body", "reply_to_message_id") else [text, {"email": text, "name": text}]
        )
        found = check_message(Message(**{field: value}), provider=None, metadata_key="key1", max_request_bytes=10)
        error = InvalidJob(found or [Problem("to", "", "")])
        assert "geheim" not in str(error)

    @given(before=st.text(max_size=5), after=st.sampled_from(["\0", "\n", "\ud800", "@example.com", "x" * 600]))
    def test_no_problem_of_a_pair_or_header_shows_it(self, before: str, after: str) -> None:
        text = f"{before}geheim-7731{after}"
        message = Message(
            custom_headers=[{"name": text, "value": text}],
            metadata={text: text, "order": text},
            tracking_options={"label": text * 200},
        )
        found = check_message(message, provider=None, metadata_key="key1")
        assert found
        assert "geheim" not in str(InvalidJob(found))


class TestChanges:
    def problems_of(self, *, provider: str | None = None, **changes: Any) -> dict[str, str]:
        given = {"unread": None, "starred": None, "folders": None, "metadata": None, **changes}
        return {problem.field: problem.reason for problem in check_changes(**given, provider=provider)}

    @pytest.mark.parametrize(
        "changes",
        [
            {"unread": False},
            {"starred": True},
            {"folders": ["INBOX", "Label_1"]},
            {"folders": ()},
            {"metadata": {}},
            {"metadata": {f"pair{number}": "v" for number in range(49)}},
        ],
    )
    def test_one_field_is_enough(self, changes: dict[str, Any]) -> None:
        assert self.problems_of(**changes) == {}

    def test_no_field_to_change_is_an_error(self) -> None:
        assert self.problems_of() == {"changes": "are empty"}

    @pytest.mark.parametrize("field", ["unread", "starred"])
    @pytest.mark.parametrize("value", [0, 1, "true", float("nan")])
    def test_a_flag_is_true_or_false(self, field: str, value: Any) -> None:
        assert self.problems_of(**{field: value}) == {field: "is not True or False"}

    @pytest.mark.parametrize("folders", ["INBOX", b"INBOX", {"INBOX"}, 5, iter(["INBOX"])])
    def test_folders_are_a_list(self, folders: object) -> None:
        assert self.problems_of(folders=folders) == {"folders": "is not a list"}

    def test_each_folder_is_an_id(self) -> None:
        found = self.problems_of(folders=["ok", 5, "", "a\0", "\ud800"])
        assert set(found) == {"folders[1]", "folders[2]", "folders[3]", "folders[4]"}

    @pytest.mark.parametrize("folders", [[], ["a", "b"]])
    def test_microsoft_wants_exactly_one_folder(self, folders: list[str]) -> None:
        assert set(self.problems_of(folders=folders, provider="microsoft")) == {"folders"}
        assert self.problems_of(folders=folders, provider="google") == {}
        assert self.problems_of(folders=["a"], provider="microsoft") == {}

    @pytest.mark.parametrize("metadata", ["text", [("a", "b")], 5])
    def test_metadata_is_a_mapping(self, metadata: object) -> None:
        assert self.problems_of(metadata=metadata) == {"metadata": "is not a mapping"}

    @pytest.mark.parametrize(
        ("metadata", "path"),
        [
            ({"key1": "mine"}, "metadata[key1]"),
            ({"order": 5}, "metadata[order]"),
            ({"order": float("nan")}, "metadata[order]"),
            ({5: "v"}, "metadata[…]"),
            ({"k" * 41: "v"}, "metadata[…]"),
            ({"order": "v" * 501}, "metadata[order]"),
            ({f"pair{number}": "v" for number in range(51)}, "metadata"),
        ],
    )
    def test_metadata_keeps_the_rules_of_a_message(self, metadata: object, path: str) -> None:
        assert set(self.problems_of(metadata=metadata)) == {path}

    def test_every_problem_is_listed(self) -> None:
        found = self.problems_of(unread=1, starred="x", folders="a", metadata=5)
        assert set(found) == {"unread", "starred", "folders", "metadata"}
