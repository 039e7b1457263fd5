"""The installer that `./dev` uses, for tests that make environments."""

from __future__ import annotations

import shutil

from tests.support.pages import ROOT


def uv() -> str:
    """The uv on PATH, otherwise the checkout's own."""
    return shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
