"""The documented faults, as calls meet them in a soak: each family of answers ends one call in a hundred.

Faults of a grant or of a single job hit the grants of one application. Those that concern a provider or a whole
application hit another application, or nobody would be untouched.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sendq.facts.outcomes import Scope
from sendq.simulator import Fault, Request
from tasks.policy.row import Row
from tasks.policy.table import OTHER_APPLICATION, POLICY

SHARE = 0.01  # of the calls, for each family

GOLDEN = Path(__file__).parents[1] / "data" / "golden_errors.json"

# The longest hold and the longest wait between two tries: the table's hours would outlast the soak.
LONGEST_S = 15

# What an API keeps in its log for a lost answer; whether the message went out is decided by chance.
LOST = ("drop", "hang")


def shortened() -> str:
    """Rows of a policy file that make every hold and backoff short."""
    lines = []
    for row in (*POLICY.rows, OTHER_APPLICATION):
        change = []
        if row.wait is not None and row is not OTHER_APPLICATION:
            change.append(f"wait = {{ default = {LONGEST_S}, floor = 1, cap = {LONGEST_S} }}")
        if row.backoff is not None:
            number = "" if row.backoff.number is None else f", number = {row.backoff.number}"
            base = min(row.backoff.base, 2)
            change.append(f"backoff = {{ base = {base}, cap = {min(row.backoff.cap, LONGEST_S)}{number} }}")
        if change:
            lines += ["[[change]]", f'id = "{row.id}"', *change, ""]
    return "\n".join(lines)


class Faults:
    """Chooses the fault of each call; ``counts`` has how often each was chosen, by rule."""

    def __init__(self, *, seed: int, quiet: frozenset[str], wide: frozenset[str]) -> None:
        """``quiet``: grants that no fault hits. ``wide``: grants of the application that faults above a grant hit."""
        self._chance, self._quiet, self._wide = random.Random(seed), quiet, wide
        rows = {row.id: row for row in POLICY.rows}
        cases = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
        self._narrow_families = _families(cases, rows, above_grant=False)
        self._wide_families = _families(cases, rows, above_grant=True)
        self.counts: Counter[str] = Counter()
        self.active = True

    def gate(self, request: Request) -> Fault | None:
        """The fault of this call (a send), if any."""
        if not self.active or request.operation != "send" or request.grant in self._quiet:
            return None
        families = self._wide_families if request.grant in self._wide else self._narrow_families
        drawn = self._chance.random() / SHARE
        if drawn >= len(families):
            return None
        rule, fault = self._chance.choice(families[int(drawn)])
        self.counts[rule] += 1
        return fault


def _families(
    cases: Sequence[Mapping[str, Any]], rows: Mapping[str, Row], *, above_grant: bool
) -> list[list[tuple[str, Fault]]]:
    """Documented faults of sends, grouped by status (server errors together, and calls without an answer)."""
    families: dict[str, list[tuple[str, Fault]]] = defaultdict(list)
    for case in cases:
        row = rows.get(case.get("rule", ""))
        if row is None or not row.documented or case["operation"] != "send" or case["status"] is None:
            continue
        if (row.scope in (Scope.PROVIDER, Scope.APPLICATION)) is not above_grant:
            continue
        family = "5xx" if case["status"] >= 500 else str(case["status"])
        for fault in _of(case, row):
            families[family].append((row.id, fault))
    if not above_grant:
        families["no answer"] = [
            ("no_answer", Fault.drop(accepted=accepted, name=f"drop {accepted}")) for accepted in (True, False)
        ]
    return [families[name] for name in sorted(families)]


def _of(case: Mapping[str, Any], row: Row) -> list[Fault]:
    """The case as a fault; where the message may have gone out, as one that sends it, and as one that does not."""
    went_out = {"no": (False,), "partly": (True,), "maybe": (True, False)}.get(row.sent.value, ())
    body = case.get("body")
    raw = body.encode() if isinstance(body, str) else body
    return [
        Fault.body(case["status"], raw, headers=case.get("headers"), accepted=accepted, name=case["name"])
        for accepted in went_out
    ]
