"""Which items of the broker's keys are messages (`worker.redis.envelope`)."""

from __future__ import annotations

import json

import pytest

from settings.celery import ENQUEUE_QUEUE, QUEUE
from tests.support.broker_garbage import bomb, message, odd, properties, unreadable
from worker.redis.envelope import BYTES_MOST, Unreadable, as_item, message_of, unacknowledged

QUEUES = frozenset({QUEUE, ENQUEUE_QUEUE})


class TestAnItem:
    @pytest.mark.parametrize("item", list(unreadable()), ids=lambda item: str(item[:40]))
    def test_that_celery_could_not_read_is_refused_in_words_that_quote_nothing(self, item: bytes) -> None:
        with pytest.raises(Unreadable) as caught:
            message_of(item, QUEUE)
        assert caught.value.__cause__ is None
        assert len(str(caught.value)) < 80

    @pytest.mark.parametrize("item", list(odd()), ids=lambda item: str(len(item)))
    def test_in_the_right_envelope_is_left_to_the_task(self, item: bytes) -> None:
        assert message_of(item, QUEUE) == json.loads(item)

    def test_that_is_compressed_is_refused_before_it_is_unpacked(self) -> None:
        item = json.dumps(bomb()).encode()
        assert len(item) < 600_000
        with pytest.raises(Unreadable, match="compressed"):
            message_of(item, QUEUE)

    def test_that_would_wait_in_the_memory_of_a_worker_is_refused_where_turns_are(self) -> None:
        item = json.dumps(message(headers={"task": "sendq.bundle", "id": "1", "eta": "2099-01-01T00:00:00Z"})).encode()
        assert message_of(item, ENQUEUE_QUEUE)
        with pytest.raises(Unreadable, match="until a later time"):
            message_of(item, QUEUE)

    def test_may_be_larger_in_the_queue_that_takes_mail(self) -> None:
        item = json.dumps(message(body="QUJD" * (BYTES_MOST // 4))).encode()
        assert message_of(item, ENQUEUE_QUEUE)
        with pytest.raises(Unreadable, match="larger than 1000000 bytes"):
            message_of(item, QUEUE)
        with pytest.raises(Unreadable, match="larger than 8000000 bytes"):
            message_of(b" " * 9_000_000, ENQUEUE_QUEUE)


class TestAnUnacknowledgedMessage:
    def test_goes_back_to_its_queue_marked_as_delivered_before(self) -> None:
        payload, queue = unacknowledged(json.dumps([message(), "", "sendq"]).encode(), QUEUES)
        assert queue == QUEUE
        back = json.loads(as_item(payload))
        assert back["headers"]["redelivered"]
        assert back["properties"]["delivery_info"]["redelivered"]
        assert message_of(as_item(payload).encode(), queue) == back

    @pytest.mark.parametrize(
        "entry",
        [
            [], {}, 7, "text", None, [[], "", "sendq"], [message(), ""], [message(), "", 7], [message(), "", []],
            [message(), "", "customers"], [message(), "customers", "customers"], [7, "", "sendq"],
            [message(properties=properties(priority=float("inf"))), "", "sendq"],
            [message(body="QUJD" * (BYTES_MOST // 4)), "", "sendq"],
        ],
    )  # fmt: skip
    def test_that_is_none_or_goes_elsewhere_is_refused(self, entry: object) -> None:
        with pytest.raises(Unreadable):
            unacknowledged(json.dumps(entry).encode(), QUEUES)

    @pytest.mark.parametrize("item", list(unreadable()), ids=lambda item: str(item[:40]))
    def test_whose_message_could_not_be_read_is_refused(self, item: bytes) -> None:
        for entry in (item, b"[" + item + b', "", "sendq"]'):
            with pytest.raises(Unreadable):
                unacknowledged(entry, QUEUES)
