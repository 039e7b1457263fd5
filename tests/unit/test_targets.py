"""Whom an outcome may be told to: the four forms, and every typo that can be seen at enqueue."""

from __future__ import annotations

import pytest

from sendq import Message, SendQueue
from sendq.enqueueing.targets import (
    EndpointTarget,
    TaskTarget,
    UrlTarget,
    allows,
    host_fault,
    parse_target,
    task_pattern_fault,
)
from sendq.errors import InvalidJob, Problem
from settings import Settings, SettingsError


class TestReading:
    @pytest.mark.parametrize(
        ("given", "target", "receiver"),
        [
            ("billing.tasks.mail_outcome", TaskTarget("billing.tasks.mail_outcome", "celery"), "celery"),
            ("billing.tasks.mail@billing.high", TaskTarget("billing.tasks.mail", "billing.high"), "celery"),
            ("webhook:billing", EndpointTarget("billing"), "webhook:billing"),
            ("https://hooks.example.com/mail?a=b", UrlTarget("https://hooks.example.com/mail?a=b", "hooks.example.com"),
             "https://hooks.example.com"),
            ("https://Hooks.example.com:443/", UrlTarget("https://Hooks.example.com:443/", "hooks.example.com"),
             "https://hooks.example.com"),
            ("https://hooks.example.com:8443/", UrlTarget("https://hooks.example.com:8443/", "hooks.example.com:8443"),
             "https://hooks.example.com:8443"),
        ],
    )  # fmt: skip
    def test_knows_tasks_endpoints_and_addresses(self, given: str, target: object, receiver: str) -> None:
        found = parse_target(given)
        assert not isinstance(found, Problem)
        assert (found, found.receiver) == (target, receiver)

    @pytest.mark.parametrize(
        "typo",
        [
            "", "mail_outcome", "billing..mail_outcome", ".billing.mail", "billing.tasks.mail outcome", "billing.mail@",
            "billing.mail@two words", "billing.mail@a@b", "billing.1mail", "webhook:", "webhook:Billing",
            "webhook:a.b", "hook:billing", "http://hooks.example.com/", "https:/hooks.example.com",
            "https//hooks.example.com", "https://", "https:///path", "ftp://hooks.example.com/", "//hooks.example.com",
            "HTTPS//x", "https://user:pass@hooks.example.com/", "https://hooks.example.com/#part",
            "https://hooks.example.com\\@evil.example/", "https://hooks.example.com:99999/", "https://[::1]/",
            "https://hooks.example.com:0/", "https://hooks .example.com/", "https://hööks.example.com/",
            "https://hooks.example.com./", "billing.mail\0", "a." + "b" * 300, 7, True, ["billing.mail"],
            "leyah@example.com", "billing.tasks.mail_outcome ", "https://-hooks.example.com/",
        ],
    )  # fmt: skip
    def test_refuses_every_typo_with_a_remedy_and_without_its_text(self, typo: object) -> None:
        found = parse_target(typo)
        assert isinstance(found, Problem)
        assert found.field == "on_outcome"
        assert "webhook:NAME" in found.remedy
        assert not isinstance(typo, str) or len(typo) < 13 or typo not in str(found)

    def test_a_typo_is_refused_at_enqueue(self) -> None:
        queue = SendQueue("sqlite://")
        with pytest.raises(InvalidJob, match="on_outcome: is not encrypted"):
            queue.send("g1", Message(to=["leyah@example.com"]), on_outcome="http://hooks.example.com/")
        with pytest.raises(InvalidJob, match="on_outcome: is neither a task's dotted name nor a URL"):
            queue.modify("g1", ["m1"], unread=False, on_outcome="mail_outcome")


class TestATaskOrQueueOfOurs:
    @pytest.mark.parametrize(
        "target",
        [
            "sendq.bundle", "sendq.enqueue@shop", "celery.chord_unlock", "celery.map@shop", "a.b@sendq",
            "a.b@sendq.unacked", "a.b@sendq.unacked_index", "a.b@sendq.enqueue", "a.b@SendQ", "a.b@sendqev",
            "a.b@unacked", "a.b@unacked_mutex", "a.b@_kombu.binding.celery", "a.b@celery.pidbox", "a.b@celeryev.x",
            "a.b@sendq:witness:1",
        ],
    )  # fmt: skip
    def test_is_never_a_receiver(self, target: str) -> None:
        found = parse_target(target)
        assert isinstance(found, Problem)
        assert "sendq" in found.reason
        with pytest.raises(InvalidJob, match="on_outcome"):
            SendQueue("sqlite://").send("g1", Message(to=["leyah@example.com"]), on_outcome=target)


class TestTheListOfTasks:
    @pytest.mark.parametrize(
        ("allowed", "target", "found"),
        [
            ("*", "a.b@q", True), ("a.b", "a.b", True), ("a.b", "a.b@q", True), ("a.b@q", "a.b@q", True),
            ("a.b@q", "a.b", False), ("a.*@q", "a.b.c@q", True), ("a.*@q", "ab.c@q", False), ("*@q", "x.y@q", True),
            ("*@q", "x.y@q2", False), ("*@q*", "x.y@q2", True), ("a.b@q", "a.bc@q", False), ("", "a.b", False),
        ],
    )  # fmt: skip
    def test_allows_what_it_names(self, allowed: str, target: str, found: bool) -> None:
        parsed = parse_target(target)
        assert isinstance(parsed, TaskTarget)
        assert allows([allowed], parsed) is found

    @pytest.mark.parametrize("entry", ["a b", "a.b@", "@q", "a.*.b", "a.b@q r", "1a.b", "**"])
    def test_has_no_other_form(self, entry: str) -> None:
        assert task_pattern_fault(entry)
        with pytest.raises(SettingsError, match="SENDQ_OUTCOME_TASKS"):
            Settings.load({"SENDQ_OUTCOME_TASKS": f"a.b, {entry}"})

    def test_is_read_from_the_environment(self) -> None:
        assert Settings.load({}).outcome_tasks == ()
        assert Settings.load({"SENDQ_OUTCOME_TASKS": "a.b@q, c.*"}).outcome_tasks == ("a.b@q", "c.*")


class TestAHostOnTheList:
    @pytest.mark.parametrize("host", ["hooks.example.com", "hooks", "hooks.example.com:8443", "127.0.0.1:9000"])
    def test_is_a_name_with_or_without_a_port(self, host: str) -> None:
        assert host_fault(host) is None

    @pytest.mark.parametrize("host", ["https://x", "x/path", "a@b", "", "x:443", "*.example.com", "x:y", "a b"])
    def test_is_nothing_else(self, host: str) -> None:
        assert host_fault(host)
