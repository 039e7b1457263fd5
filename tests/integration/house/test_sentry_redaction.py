"""What Sentry's own collecting leaves behind: no variable, no address, no word of anybody's mail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from settings import Settings
from settings.sentry import start_sentry
from settings.trace import NOT_SHOWN


class Caught(Transport):
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events.append(envelope.get_event())


class TestSentry:
    @pytest.fixture
    def caught(self) -> Iterator[Caught]:
        transport = Caught()
        assert start_sentry(Settings(sentry_dsn="https://key@sentry.example.com/1"), transport=transport)
        yield transport
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)  # later tests of this process report nothing and add no headers

    def test_is_off_without_an_address(self) -> None:
        assert not start_sentry(Settings())
        assert not sentry_sdk.is_initialized()

    def test_hears_of_no_variable_no_word_and_no_address(self, caught: Caught) -> None:
        recipient = "hush@example.com"
        sentry_sdk.set_extra("celery-job", {"args": ["hush"]})
        sentry_sdk.set_extra("request", {"deep": {"subject": "hush", "to": ["hush"]}})
        sentry_sdk.add_breadcrumb(message=f"asked {recipient}")
        try:
            raise ValueError(f"bad recipient {recipient}")
        except ValueError:
            sentry_sdk.capture_exception()
        (event,) = caught.events
        assert event["exception"]["values"][0]["value"] == NOT_SHOWN
        sources = ("pre_context", "context_line", "post_context")
        for frame in event["exception"]["values"][0]["stacktrace"]["frames"]:
            assert "vars" not in frame
            for source in sources:  # the code of this test holds the word itself
                frame.pop(source, None)
        assert "hush" not in json.dumps(event, default=str)
