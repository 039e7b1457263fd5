"""The console on a ledger with 100,000 jobs and 10,000 grants, of which 1,000 are held: time per page, and what a page
that is left open costs PostgreSQL.

    ./dev bench console

Each page is requested again and again from the application itself, without a server in between. A live update is what
the first page does every 5 seconds, however many people look at it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Engine, text

from benchmarks import reporting
from benchmarks.reporting import RESULTS, Bar
from benchmarks.stage import postgres_cpu
from sendq import Operators, clock
from sendq.console import Person, Role, console
from sendq.console.live import EVERY_S
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_engine, writing
from tasks.policy.table import POLICY
from tasks.policy.words import words_of
from tests.support.asgi import Browser
from tests.support.populated import HELD_RULE, populate
from tests.support.servers import PgServer, running_postgres

PAGE_MS = 300.0  # the slowest one in a hundred requests of any page
OPEN_PERCENT = 1.0  # of a core of PostgreSQL, for a page that is left open


def main(arguments: Sequence[str]) -> int:
    """Write the report; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="./dev bench console", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--grants", type=int, default=10_000)
    parser.add_argument("--held", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=100, help="of each page")
    parser.add_argument("--report", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sendq-bench-") as at:
        Path(at).chmod(0o755)  # PostgreSQL may run as another user
        with running_postgres(Path(at)) as pg, pg.database() as name:
            migrate.run(pg.url(name))
            engine = open_engine(pg.url(name))
            with writing(engine) as connection:
                populate(connection, grants=given.grants, jobs=given.jobs, held=given.held, now=clock.now())
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE"))
            rows, percent = measure(engine, pg, given.requests)
            engine.dispose()
    bars = [Bar("slowest page, p99, ms", max(float(str(row["p99 ms"])) for row in rows), PAGE_MS)]
    bars.append(Bar("a page left open, % of a core of PostgreSQL", percent, OPEN_PERCENT))
    reporting.write(
        given.report / "console.md",
        [
            *reporting.head("The console", "./dev bench console"),
            f"- ledger: {given.jobs:,} jobs, {given.grants:,} grants, {given.held:,} of them held",
            *reporting.bars(bars),
            *reporting.section(
                "Pages",
                f"{given.requests} requests of each, in this process. CPU: of it and of PostgreSQL, per request.",
                reporting.table(rows),
            ),
        ],
    )
    return 0 if all(bar.met for bar in bars) else 1


def measure(engine: Engine, pg: PgServer, requests: int) -> tuple[list[Mapping[str, object]], float]:
    """The times of each page, and the share of a core that PostgreSQL spends on live updates of the first one."""
    application = console(Operators(engine), who=lambda request: Person("anna", Role.OPERATOR), rules=words_of(POLICY))
    browser = Browser(application)
    rows: list[Mapping[str, object]] = []
    for path in pages(engine):
        times = []
        spent = time.process_time() + postgres_cpu(pg)
        for _ in range(requests):
            began = time.perf_counter()
            answer = browser.get(path)
            times.append((time.perf_counter() - began) * 1000)
            assert answer.status in (200, 303), f"{path}: {answer.words}"
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        spent = (time.process_time() + postgres_cpu(pg) - spent) / requests * 1000
        rows.append(
            {"page": path, "p50 ms": round(cuts[49], 1), "p99 ms": round(cuts[98], 1), "CPU ms": round(spent, 1)}
        )
        print(f"{path}: {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, CPU {spent:.1f} ms", file=sys.stderr)
    before = postgres_cpu(pg)
    for _ in range(requests):
        browser.get("/")
    return rows, round((postgres_cpu(pg) - before) / requests / EVERY_S * 100, 3)


def pages(engine: Engine) -> list[str]:
    """Every page, with the filters that people use."""
    with engine.connect() as connection:
        job = connection.execute(schema.job.select().where(schema.job.c.state == "dead").limit(1)).first()
        held = connection.execute(schema.lane.select().where(schema.lane.c.held_until.is_not(None)).limit(1)).first()
        batch = connection.execute(schema.batch.select().limit(1)).first()
    assert job is not None
    assert held is not None
    assert batch is not None
    return [
        "/", "/accounts", "/accounts?state=held", f"/accounts?rule={HELD_RULE}&provider=ews", "/accounts?text=0000ab",
        "/accounts?state=open&provider=google", f"/accounts/default/{held.grant_id}", "/jobs", "/jobs?state=dead",
        "/jobs?state=queued&provider=ews", "/jobs?rule=bad_request", f"/jobs?grant={held.grant_id}", f"/jobs/{job.id}",
        "/search?q=message-3750", f"/search?q={job.id}", "/dead", "/dead?rule=bad_request&provider=google",
        f"/acts/retry?rule={job.rule}", f"/acts/release-all?rule={HELD_RULE}&provider=ews&state=held", "/batches",
        f"/batches/{batch.id}", "/doubts", "/outcomes", "/outcomes?state=given_up", "/journal", "/journal?kind=closed",
        "/suppressions", "/suppressions?reason=bounced", "/jobs?delivery=bounced",
    ]  # fmt: skip
