"""Rows of one's own: used in front of the table, and checked line by line."""

from __future__ import annotations

import json

import pytest

from sendq.facts.outcomes import Scope
from tasks.policy.failure import Answer, Failure, parse
from tasks.policy.policy_file import Finding, PolicyFileError, check_policy, policy_with
from tasks.policy.row import Policy, Route
from tasks.policy.table import POLICY

ROW = """
[[row]]
id = "partner"
title = "Partner maintenance"
status = [503]
text = ["Maintenance Window", ["closed", "sunday"]]
route = "requeue"
scope = "grant"
sent = "no"
wait = { default = 600, cap = 7200 }
why = "The partner's servers are down."
remedy = "Nothing to do."
"""


def failure(status: int, message: str) -> Failure:
    body = json.dumps({"error": {"type": "x", "message": message}}).encode()
    outcome = parse(Answer(status, {}, body), provider="ews", operation="send", now=0)
    assert isinstance(outcome, Failure)
    return outcome


def findings(text: str, level: str = "error") -> list[tuple[int, str]]:
    return [(found.line, found.says) for found in check_policy(text) if found.level == level]


class TestARowOfOnesOwn:
    def test_comes_before_the_table(self) -> None:
        row = policy_with(ROW).rule(failure(503, "In our maintenance window"))
        assert (row.id, row.route, row.scope, row.source) == ("partner", Route.REQUEUE, Scope.GRANT, "policy file")

    def test_needs_all_pieces_of_an_inner_list(self) -> None:
        policy = policy_with(ROW)
        assert policy.rule(failure(503, "closed on each sunday")).id == "partner"
        assert policy.rule(failure(503, "closed")).id == "service_unavailable"

    def test_leaves_the_rest_as_it_is(self) -> None:
        assert policy_with(ROW).rows[1:] == POLICY.rows

    def test_is_nothing_to_complain_about(self) -> None:
        assert check_policy(ROW) == []


class TestAChange:
    def test_keeps_place_and_conditions(self) -> None:
        policy = policy_with('[[change]]\nid = "exchange_throttled"\nwait = { default = 0.5, floor = 0 }')
        changed = policy.rule(failure(429, "The Exchange account has been throttled"))
        assert changed.wait is not None
        assert changed.wait.lasts(None, now=0) == 500_000
        assert [row.id for row in policy.rows] == [row.id for row in POLICY.rows]

    def test_of_an_unknown_row_is_an_error(self) -> None:
        assert findings('\n[[change]]\nid = "nobody"')[0][0] == 2

    def test_of_a_condition_is_an_error(self) -> None:
        assert findings('[[change]]\nid = "forbidden"\nstatus = 404') == [
            (3, "'status' cannot be changed: write a [[row]] instead")
        ]


class TestChecking:
    def test_finds_an_unreachable_row(self) -> None:
        narrow = ROW.replace('"partner"', '"narrow"').replace("[503]", "503").replace("Window", "window today")
        wide = ROW.replace('"partner"', '"wide"').replace('text = ["Maintenance Window", ["closed", "sunday"]]\n', "")
        (found,) = findings(wide + narrow)
        assert found[0] == wide.count("\n") + 2
        assert "unreachable" in found[1]

    def test_finds_rows_that_overlap(self) -> None:
        other = ROW.replace('"partner"', '"other"').replace("[503]", '"5xx"').replace("600", "60")
        other = other.replace("Maintenance Window", "overload")
        assert "overlaps 'partner'" in findings(ROW + other, "warning")[0][1]

    def test_names_what_a_row_overrides(self) -> None:
        wide = ROW.replace('text = ["Maintenance Window", ["closed", "sunday"]]\n', "")
        says = findings(wide, "warning")[0][1]
        assert "overrides" in says
        assert "service_unavailable" in says

    @pytest.mark.parametrize(
        ("line", "wrong", "word"),
        [
            (3, "idd = 'x'", "unknown word 'idd'"),
            (5, "status = 42", "status"),
            (5, "status = '9xx'", "status"),
            (6, 'text = [""]', "empty text"),
            (6, "text = []", "empty list"),
            (7, 'route = "later"', "known are retry"),
            (7, 'route = "retry"', "backoff"),
            (8, "scope = 5", "known are job"),
            (9, 'sent = "partly"', "never sent again"),
            (10, "wait = 5", "table"),
            (10, "wait = { defualt = 5 }", "unknown word 'defualt'"),
            (10, "wait = { default = -1 }", "number"),
            (10, "wait = { cap = 5 }", "needs default"),
            (11, "", "missing: why"),
            (11, "why = 7", "must be text"),
        ],
    )
    def test_names_the_line_of_what_is_wrong(self, line: int, wrong: str, word: str) -> None:
        lines = ROW.split("\n")
        lines[line - 1] = wrong
        found = check_policy("\n".join(lines))
        hits = [finding for finding in found if word in finding.says]
        assert hits, found
        assert all(finding.level == "error" for finding in hits)
        whole_row = ("backoff", "never sent again", "missing: why")
        assert hits[0].line == (2 if word in whole_row else line)

    def test_refuses_to_ask_for_a_sign_in_after_an_unknown_outcome(self) -> None:
        text = ROW.replace('"requeue"', '"reauth"').replace('sent = "no"', 'sent = "maybe"')
        assert any("an unknown outcome must be resolved first" in says for _, says in findings(text))

    def test_takes_codes_and_classes_of_smtp_and_texts_that_must_not_be_there(self) -> None:
        lines = 'smtp = [535, 4]\nunless = ["maintenance", ["spf", "dkim"]]\n'
        row = policy_with(ROW + lines).rows[0]
        assert (row.smtp, row.unless) == ((535, 4), ("maintenance", ("spf", "dkim")))
        assert "400 to 599" in findings(ROW + "smtp = 6\n")[0][1]

    def test_takes_statuses_under_which_words_do_not_suffice(self) -> None:
        row = policy_with(ROW + 'by_code = [402, "5xx"]\n').rows[0]
        assert row.by_code == (402, "5xx")

    def test_names_the_line_of_broken_toml(self) -> None:
        assert findings("[[row]]\nid = \n")[0][0] == 2

    @pytest.mark.parametrize("text", ["row = 5", "[row]\nid = 'x'", "[[rows]]\nid = 'x'", "[[row]]"])
    def test_refuses_what_is_no_list_of_rows(self, text: str) -> None:
        assert findings(text)

    @pytest.mark.parametrize("depth", [50, 500, 5_000])
    def test_refuses_what_is_nested_deeply(self, depth: int) -> None:
        for value in ("[" * depth + "]" * depth, "{a=" * depth + "1" + "}" * depth):
            with pytest.raises(PolicyFileError):
                policy_with(f'[[row]]\nid = "a"\ntext = {value}')

    def test_refuses_an_id_that_is_used_twice(self) -> None:
        assert any("used twice" in says for _, says in findings(ROW + ROW))


class TestUsingAFile:
    def test_raises_with_every_error(self) -> None:
        with pytest.raises(PolicyFileError) as caught:
            policy_with('[[row]]\nid = "x"\nroute = "y"')
        assert len(caught.value.findings) == 3
        assert str(Finding(3, "error", "x")) == "line 3: error: x"

    def test_without_rows_changes_nothing(self) -> None:
        assert isinstance(policy_with(""), Policy)
        assert policy_with("").rows == POLICY.rows
