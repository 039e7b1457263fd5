"""A Chromium for the tests, and where their pictures go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.servers import pg_server

__all__ = ["pg_server"]

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="write the pictures of docs/pictures anew")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium that `./dev browser` found. Its sandbox needs a user that is not root."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=root)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window, wide enough for Flower's tables."""
    page = browser.new_page(viewport={"width": 1440, "height": 760}, color_scheme="light")
    page.set_default_timeout(30_000)
    yield page
    page.close()


@pytest.fixture
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures go: the documentation's folder if it was asked for."""
    return PICTURES if request.config.getoption("--pictures") else tmp_path
