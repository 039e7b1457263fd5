"""The vault: what is sealed opens with the right key in the right context alone, and no error shows a key."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.bindings import context_of
from sendq.errors import Altered, NotEncrypted, Unreadable
from sendq.vault import KEY_BYTES, Vault, new_key

OLD, NEW = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
CONTEXT = context_of("payload", "7")


class TestSealing:
    @given(st.binary(max_size=300))
    def test_gives_back_what_was_sealed(self, data: bytes) -> None:
        vault = Vault({"new": NEW})
        sealed = vault.seal(data, context=CONTEXT)
        assert sealed.key_name == "new"
        assert vault.open(sealed.data, sealed.key_name, context=CONTEXT) == data

    def test_hides_what_it_seals_and_differs_each_time(self) -> None:
        vault = Vault({"new": NEW})
        first, second = (vault.seal(b"leyah@example.com", context=CONTEXT).data for _ in range(2))
        assert b"leyah" not in first
        assert first != second

    def test_without_a_key_changes_nothing(self) -> None:
        sealed = Vault().seal(b"data", context=CONTEXT)
        assert sealed == (b"data", None)
        assert Vault().open(*sealed, context=CONTEXT) == b"data"

    def test_goes_by_the_first_key_and_opens_by_all(self) -> None:
        before = Vault({"old": OLD}).seal(b"data", context=CONTEXT)
        both = Vault({"new": NEW, "old": OLD})
        assert both.seal(b"", context=CONTEXT).key_name == "new"
        assert both.open(*before, context=CONTEXT) == b"data"

    def test_opens_unencrypted_data_only_if_it_is_to_accept_them(self) -> None:
        assert Vault({"new": NEW}, accept_unencrypted=True).open(b"data", None, context=CONTEXT) == b"data"
        with pytest.raises(NotEncrypted, match="SENDQ_ACCEPT_UNENCRYPTED"):
            Vault({"new": NEW}).open(b"data", None, context=CONTEXT)

    def test_tells_altered_data_from_a_key_that_is_not_at_hand(self) -> None:
        data, name = Vault({"old": OLD}).seal(b"data", context=CONTEXT)
        for other in (Vault({"old": NEW}), Vault({"new": NEW}), Vault()):
            with pytest.raises(Unreadable) as raised:
                other.open(data, name, context=CONTEXT)
            assert not isinstance(raised.value, Altered)
        for altered in (data[:-1], data[:20], b"", b"data"):
            with pytest.raises(Altered):
                Vault({"old": OLD}).open(altered, name, context=CONTEXT)
        with pytest.raises(Altered):
            Vault({"old": OLD}).open(data, "another name", context=context_of("payload", "8"))


class TestOpening:
    def test_names_the_key_that_is_missing(self) -> None:
        sealed = Vault({"old": OLD}).seal(b"data", context=CONTEXT)
        with pytest.raises(Unreadable, match=r"'old'.*is not configured") as raised:
            Vault({"new": NEW}).open(*sealed, context=CONTEXT)
        assert (raised.value.key_name, raised.value.missing) == ("old", True)

    def test_says_when_the_key_of_that_name_is_another(self) -> None:
        sealed = Vault({"old": OLD}).seal(b"data", context=CONTEXT)
        with pytest.raises(Unreadable, match="does not decrypt") as raised:
            Vault({"old": NEW}).open(*sealed, context=CONTEXT)
        assert not raised.value.missing

    def test_finds_a_key_that_was_renamed(self) -> None:
        sealed = Vault({"old": OLD}).seal(b"data", context=CONTEXT)
        assert Vault({"new": NEW, "renamed": OLD}).open(*sealed, context=CONTEXT) == b"data"

    @pytest.mark.parametrize("other", [context_of("payload", "8"), context_of("batch", "7")])
    def test_refuses_what_belongs_to_something_else(self, other: bytes) -> None:
        vault = Vault({"new": NEW})
        with pytest.raises(Unreadable):
            vault.open(*vault.seal(b"data", context=CONTEXT), context=other)

    @pytest.mark.parametrize("position", [0, 1, 12, 13, -1])
    def test_refuses_what_was_damaged(self, position: int) -> None:
        vault = Vault({"new": NEW})
        data = bytearray(vault.seal(b"data", context=CONTEXT).data)
        data[position] ^= 1
        with pytest.raises(Unreadable):
            vault.open(bytes(data), "new", context=CONTEXT)

    def test_refuses_what_was_cut_short(self) -> None:
        vault = Vault({"new": NEW})
        data, name = vault.seal(b"data", context=CONTEXT)
        for length in range(len(data)):
            with pytest.raises(Unreadable):
                vault.open(data[:length], name, context=CONTEXT)


class TestTags:
    def test_are_of_one_context_and_one_key(self) -> None:
        tag, name = Vault({"old": OLD}).tag(CONTEXT)
        Vault({"new": NEW, "old": OLD}).verify(tag, name, context=CONTEXT)
        with pytest.raises(Altered):
            Vault({"old": OLD}).verify(tag, name, context=context_of("payload", "8"))
        with pytest.raises(Unreadable, match="'old'"):
            Vault({"new": NEW}).verify(tag, name, context=CONTEXT)

    @pytest.mark.parametrize("position", range(0, 21, 4))
    def test_are_refused_when_they_were_damaged(self, position: int) -> None:
        vault = Vault({"new": NEW})
        tag = bytearray(vault.tag(CONTEXT).data)
        tag[position] ^= 1
        for damaged in (bytes(tag), bytes(tag[:position]), b""):
            with pytest.raises(Unreadable):
                vault.verify(damaged, "new", context=CONTEXT)

    def test_are_missing_without_a_key(self) -> None:
        assert Vault().tag(CONTEXT) == (b"", None)
        Vault().verify(b"", None, context=CONTEXT)
        with pytest.raises(NotEncrypted):
            Vault({"new": NEW}).verify(b"", None, context=CONTEXT)


class TestAContext:
    @given(st.lists(st.text() | st.integers() | st.booleans() | st.none(), max_size=4))
    def test_is_that_of_no_other_fields(self, fields: list[str | int | bool | None]) -> None:
        assert json.loads(context_of("kind", *fields)) == ["kind", *fields]


class TestReadingKeys:
    def test_keeps_their_order(self) -> None:
        assert Vault.parse(f"{new_key('b')}, {new_key('a')}\n{new_key('c')}\n").names == ("b", "a", "c")

    def test_of_an_empty_text_seals_nothing(self) -> None:
        assert not Vault.parse(" \n")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("c2VjcmV0", "key 1: write it as name:base64"),
            (":c2VjcmV0", "key 1: write it as name:base64"),
            ("a:c2VjcmV0", "'a': has 6 bytes; it must have 32"),
            ("a:c2VjcmV0!", "'a': is not base64"),
            (f"{new_key('a')},{new_key('a')}", "key 2: has the same name as an earlier one"),
        ],
        ids=[
            "no name",
            "an empty name",
            "too short",
            "no base64",
            "a name twice",
        ],  # not the keys, which are others each time
    )
    def test_refuses_with_position_reason_and_remedy_and_shows_no_key(self, text: str, words: str) -> None:
        with pytest.raises(ValueError, match=words) as raised:
            Vault.parse(text)
        assert "c2VjcmV0" not in str(raised.value)

    def test_shows_names_alone(self) -> None:
        key = new_key("a")
        assert repr(Vault.parse(key)) == "Vault(a)"

    def test_needs_no_cryptography_without_a_key(self) -> None:
        code = (
            "import sys; from sendq.vault import Vault; v = Vault.parse('')\n"
            "v.open(*v.seal(b'x', context=b''), context=b''); sys.exit('cryptography' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_says_which_extra_is_missing(self) -> None:
        code = (
            "import sys; sys.modules['cryptography.hazmat.primitives.ciphers.aead'] = None\n"
            f"from sendq.vault import Vault; Vault.parse({new_key('a')!r})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "install sendq[encryption]" in done.stderr.splitlines()[-1]
