"""Whether it added up: callers, webhooks, ledger and the API's mailbox, job by job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sendq.facts.outcomes import Sent
from tasks.policy.table import POLICY
from tasks.policy.words import words_of
from tests.chaos.stage import NEVER_SAID
from tests.soak.load import Load, Outcomes
from tests.support.system import System

UNTOUCHED_MOST_S = 5.0  # the 99th percentile of jobs that met no fault

# Ends that say "not sent"; a dead letter says so if its rule does.
_NOT_SENT = ("cancelled", "expired")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. ``late_s``: from enqueueing to acceptance by the API, for jobs of grants without faults."""

    states: Mapping[str, int]
    rules: Mapping[str, int]  # of dead letters
    lost: Sequence[str]
    twice: Sequence[str]
    untrue: Sequence[str]
    said: Sequence[str]  # log lines that should never occur
    late_s: Sequence[float]

    @property
    def p99_s(self) -> float:
        """The 99th percentile for untouched jobs, in seconds."""
        return percentile(self.late_s, 99)

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, sent twice or untrue, and there were untouched jobs, all of them quick."""
        wrong = self.lost or self.twice or self.untrue or self.said
        return not wrong and bool(self.late_s) and self.p99_s < UNTOUCHED_MOST_S


def judge(system: System, load: Load, receiver: Outcomes, *, quiet: frozenset[str], directory: Path) -> Verdict:
    """Compare what callers had accepted, what the webhooks said, and what the mailbox has."""
    sent_of = {rule: said.sent for rule, said in words_of(POLICY).items()}
    copies = Counter(one.job for one in system.api.mailbox if one.job is not None)
    accepted_at: dict[str, float] = {}
    for one in system.api.mailbox:
        accepted_at.setdefault(one.job or "", one.at)
    untrue = [f"the mailbox has job {job}, which nobody enqueued" for job in copies.keys() - load.jobs.keys()]
    for job in load.jobs:
        _, state, rule = receiver.latest.get(job, (0, "", ""))
        count = copies[job]
        if state == "sent" and not count:
            untrue.append(f"job {job} is sent ({rule}), and the mailbox has it not")
        if count and (state in _NOT_SENT or (state == "dead" and sent_of.get(rule) == Sent.NO)):
            untrue.append(f"job {job} is {state} ({rule}), and the mailbox has it")
    if receiver.forged:
        untrue.append(f"{receiver.forged} webhooks had no valid signature")
    states = Counter(receiver.latest[job][1] for job in load.jobs if job in receiver.latest)
    rules = Counter(rule for _, state, rule in receiver.latest.values() if state == "dead")
    return Verdict(
        states,
        rules,
        [job for job in load.jobs if job not in receiver.latest],
        [job for job, count in copies.items() if count > 1],
        untrue,
        _said(directory),
        sorted(
            accepted_at[job] - sent.at for job, sent in load.jobs.items() if sent.grant in quiet and job in accepted_at
        ),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The percentile of ordered values; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] if ordered else 0.0


def _said(directory: Path) -> list[str]:
    found: Counter[str] = Counter()
    for log in directory.glob("worker-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            found.update(words for words in NEVER_SAID if words in line)
    return [f"{words.strip(chr(34))} ({count} times)" for words, count in found.items()]
