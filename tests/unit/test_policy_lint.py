"""The policy's lint: competing rows, texts that never get a turn, rows that nobody tries."""

from __future__ import annotations

from dataclasses import replace

from tasks.policy.lint import Kind, lint
from tasks.policy.row import Policy, Row
from tasks.policy.table import POLICY
from tests.unit.test_policy import CASES

ROWS = {row.id: row for row in POLICY.rows}


def found(policy: Policy, kind: Kind) -> list[tuple[str, str | None]]:
    return [(remark.row, remark.other) for remark in lint(policy, CASES) if remark.kind is kind]


class TestTheTable:
    def test_has_no_row_that_no_golden_case_reaches(self) -> None:
        assert found(POLICY, Kind.UNREACHED) == []

    def test_has_no_text_that_always_meets_an_earlier_row(self) -> None:
        assert found(POLICY, Kind.HIDDEN) == []

    def test_has_rows_that_compete_for_golden_texts(self) -> None:
        assert ("recipients_partly_refused", "no_recipients") in found(POLICY, Kind.BOTH)

    def test_has_no_competition_between_rows_that_decide_alike(self) -> None:
        assert ("quota_words", "quota_exceeded") not in found(POLICY, Kind.BOTH)


class TestARow:
    def with_first(self, row: Row) -> Policy:
        return Policy((row, *POLICY.rows))

    def test_that_takes_all_of_anothers_failures_leaves_it_unreached(self) -> None:
        wide = replace(ROWS["tracking_on_trial"], id="wide", text=("tracking",))
        assert ("tracking_on_trial", None) in found(self.with_first(wide), Kind.UNREACHED)

    def test_that_takes_one_text_of_another_hides_that(self) -> None:
        wide = replace(ROWS["quota_exceeded"], id="wide", text=("relay",), unless=())
        remarks = [one for one in lint(self.with_first(wide), CASES) if one.kind is Kind.HIDDEN]
        assert {(one.row, one.other) for one in remarks} == {("quota_exceeded", "wide")}
        assert any("“relay quota”" in one.says for one in remarks)

    def test_that_no_case_is_about_is_unreached(self) -> None:
        lonely = replace(ROWS["outbound_rule"], id="lonely", text=("nobody says this",))
        assert found(self.with_first(lonely), Kind.UNREACHED) == [("lonely", None)]
