"""``./dev chaos``: plays every scenario with one seed, and reports whether the ledger added up.

    ./dev chaos --seed 7 --only kills --only redis-frozen --kills 30 --broker-only --report chaos.md

The leader starts turns in its own process, and others through the broker; with ``--broker-only``, all go through it.

The report is Markdown, with the same numbers as JSON beside it. The exit status is 1 if anything was lost or sent
twice, did not drain by itself, or if a turn was away for longer than the bar.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.chaos import notices, plain, report, servers, upstream, workers
from tests.chaos.board import PLACES
from tests.chaos.stage import BROKER_ONLY, Played, Scenario, play
from tests.support.servers import Cluster, running_cluster

REPORT = Path(__file__).parents[2] / "benchmarks" / "results" / "chaos.md"


def main(arguments: list[str]) -> int:
    """See the module."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # otherwise the workers would keep running
    scenarios = [workers.kills(given.kills), *workers.SCENARIOS, *servers.SCENARIOS, *upstream.SCENARIOS]
    scenarios += notices.SCENARIOS
    if given.broker_only:
        scenarios = [replace(one, settings={**one.settings, **BROKER_ONLY}) for one in scenarios]
    known = [scenario.name for scenario in scenarios] + [plain.NAME]
    unknown = sorted(set(given.only) - set(known))
    if unknown:
        print(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    wanted = [scenario for scenario in scenarios if not given.only or scenario.name in given.only]
    compares = not given.only or plain.NAME in given.only
    played, skipped = [], []
    compared: list[report.Compared] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as home, running_cluster() as cluster:
        for scenario in wanted:
            if scenario.lacks() is not None:
                skipped.append(scenario)
            else:
                played.append(_play(scenario, cluster, Path(home), given.seed))
            report.Report(given.seed, played, skipped, compared).write(given.report)  # the results so far
        if compares:
            compared = plain.compare(cluster, Path(home), seed=given.seed, kills=given.compare_kills)
    result = report.Report(given.seed, played, skipped, compared)
    result.write(given.report)
    print(f"report: {given.report}")
    return 0 if result.holds else 1


def _play(scenario: Scenario, cluster: Cluster, home: Path, seed: int) -> Played:
    directory = home / scenario.name
    directory.mkdir()
    played = play(scenario, cluster, directory, seed)
    print(report.line(played), flush=True)
    for sentence in report.complaints(played):
        print(f"    {sentence}", flush=True)
    return played


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="decides what happens when, and the work (default: 1)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this scenario; may be repeated")
    kills = 10 * (len(PLACES) + 1)  # ten times at every place, and ten times at any moment
    parser.add_argument("--kills", type=int, default=kills, help=f"in the scenario of kills (default: {kills})")
    parser.add_argument("--compare-kills", type=int, default=25, help="in the comparison with plain Celery")
    parser.add_argument("--broker-only", action="store_true", help="with SENDQ_LOCAL_TURNS=false in every scenario")
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write it (default: benchmarks/results)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
