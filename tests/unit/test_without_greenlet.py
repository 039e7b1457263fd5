"""The package without the extra for asyncio: everything else is there, also for help() and ``import *``."""

from __future__ import annotations

import subprocess
import sys

from tests.support.waiting import LIMIT_S

HIDDEN = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "greenlet" else found(name, package)
sys.modules["greenlet"] = None
"""


def run(program: str) -> str:
    """What a program prints in an environment without greenlet."""
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + program], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestThePackageWithoutGreenlet:
    def test_explains_itself(self) -> None:
        said = run("import pydoc, sendq; print(pydoc.render_doc(sendq, renderer=pydoc.plaintext))")
        assert "class SendQueue" in said
        assert "class AsyncSendQueue" not in said

    def test_gives_all_other_names(self) -> None:
        assert (
            run("from sendq import *; print(SendQueue.__name__, 'AsyncSendQueue' in globals())") == "SendQueue False\n"
        )

    def test_names_the_extra(self) -> None:
        said = run("""
try:
    from sendq import AsyncSendQueue
except ImportError as error:
    print(error)
import sendq
try:
    sendq.AsyncSendQueue
except AttributeError as error:
    print(error)
""")
        assert "pip install 'sendq[asyncio]'" in said
