"""Flower, as a person sees it: tasks listed, filtered by state, one opened; the workers; nothing private anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sendq import SendQueue
from sendq.simulator import Fault
from tests.support.flower import Flower, flower
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

# Grants as Nylas names them.
OPEN, FLAKY, TIRED, CLOSED = (
    f"{number}ac3bd1-19a4-4b3c-9d0e-7f2c5e6a81{number}{number}" for number in (4, 5, 7, 9)
)  # fmt: skip
STATES = ("SUCCESS", "FAILURE", "RETRY", "HELD", "REAUTH")
PICTURE_BYTES = 200_000


@pytest.fixture
def shown(pg_server: PgServer, tmp_path: Path) -> Iterator[tuple[Flower, dict[str, list[str]]]]:
    """Flower beside a system in which each state occurs, and the jobs in each."""
    with pg_server.ledger() as url, running(url, tmp_path, latency=0.05) as system:
        system.api.grant(CLOSED, status="invalid")
        system.api.will(Fault.status(503, headers={"Retry-After": "600"}), grant=FLAKY, times=None)
        system.api.will(Fault.status(429, headers={"Retry-After": "600"}), grant=TIRED, times=None)
        with flower(system) as seen:
            system.start_worker(
                "-E", SENDQ_POLICY_FILE=""
            )  # with its own backoffs, so that a retry can be seen waiting
            eventually(seen.worker, "a heartbeat at Flower")
            system.prove("default", "unknown")
            system.prove("default", "google")
            jobs = enqueue(system.queue)
            wanted = {job: state for state, ids in jobs.items() for job in ids}

            def there() -> bool:
                tasks = seen("/api/tasks") or {}
                return all(tasks.get(job, {}).get("state") == state for job, state in wanted.items())

            eventually(there, "every job in Flower")
            batch(system)
            yield seen, jobs


def enqueue(queue: SendQueue) -> dict[str, list[str]]:
    return {
        "SUCCESS": [queue.send(OPEN, mail(), provider="google").id for _ in range(4)],
        "FAILURE": [
            queue.send(OPEN, mail("bad@marked.example", "marked subject"), provider="google").id for _ in range(2)
        ],
        "RETRY": [queue.send(FLAKY, mail()).id],
        "HELD": [queue.send(TIRED, mail()).id],
        "REAUTH": [queue.send(CLOSED, mail()).id],
    }


def batch(system: System) -> None:
    batch = system.queue.modify(OPEN, ["message-1", "message-2"], unread=False)
    eventually(lambda: system.queue.batch(batch.id).waiting == 0, "the batch")


def rows(page: Page) -> list[str]:
    """The rows of the table of tasks, as text, once it is filled."""
    expect(page.locator("#tasks-table tbody tr td a").first).to_be_visible()
    texts: list[str] = page.locator("#tasks-table tbody tr").all_inner_texts()
    return texts


def take(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    assert path.stat().st_size < PICTURE_BYTES


def test_lists_filters_and_opens_jobs(shown: tuple[Flower, dict[str, list[str]]], page: Page, pictures: Path) -> None:
    seen, jobs = shown
    page.goto(f"{seen.url}/tasks")
    expect(page.locator("#tasks-table tbody tr")).to_have_count(11)
    listed = rows(page)
    for state, ids in jobs.items():
        for job in ids:
            (row,) = [row for row in listed if job in row]
            assert "sendq.send" in row
            assert state in row
    assert sum("sendq.modify" in row for row in listed) == 2
    assert not any("bundle" in row for row in listed)
    assert any(f"'{TIRED}'" in row and "(429)" in row for row in listed)
    take(page, pictures / "flower-tasks.png")

    page.get_by_role("button", name="Failed").click()
    expect(page.locator("#tasks-table tbody tr")).to_have_count(2)
    failed = rows(page)
    assert all("FAILURE" in row and "bad_request (400)" in row for row in failed)
    take(page, pictures / "flower-failed.png")

    page.get_by_role("link", name=jobs["FAILURE"][0]).click()
    expect(page.locator("#task-page")).to_contain_text("bad_request (400)")
    opened = page.locator("#task-page").inner_text()
    assert jobs["FAILURE"][0] in opened
    assert f"{{'grant': '{OPEN}'}}" in opened
    assert "marked" not in page.content()
    take(page, pictures / "flower-task.png")


@pytest.mark.parametrize("state", ["HELD", "REAUTH"])
def test_finds_jobs_by_the_states_that_are_ours(
    shown: tuple[Flower, dict[str, list[str]]], page: Page, state: str
) -> None:
    seen, jobs = shown
    page.goto(f"{seen.url}/tasks")
    rows(page)
    page.locator("input[type=search]").fill(f"state:{state}")
    expect(page.locator("#tasks-table tbody tr")).to_have_count(1)
    assert jobs[state][0] in rows(page)[0]


def test_shows_workers_with_what_they_did(
    shown: tuple[Flower, dict[str, list[str]]], page: Page, pictures: Path
) -> None:
    seen, jobs = shown
    page.goto(f"{seen.url}/workers")
    row = page.locator("table tbody tr").first
    expect(row).to_contain_text("Online")
    cells = row.locator("td").all_inner_texts()
    attempts = sum(map(len, jobs.values())) + 2
    active, processed, failed, succeeded = map(int, cells[2:6])
    assert (active, failed, succeeded) == (0, len(jobs["FAILURE"]), len(jobs["SUCCESS"]) + 2)
    assert processed == attempts
    take(page, pictures / "flower-workers.png")
