"""Listening on an address, and leaving on SIGTERM: for every HTTP server that a command runs."""

from __future__ import annotations

import socket
from types import FrameType
from typing import NoReturn

from sendq.errors import Problem
from settings import SettingsError


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is a free one. Raises ``SettingsError`` if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            [Problem("--host, --port", f"cannot be listened on ({error.strerror})", "choose others")]
        ) from None


def at(host: str, port: int) -> str:
    """The address of a server's root."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    """Ends the process well. uvicorn handles the signal first, stops, and then passes it on."""
    raise SystemExit(0)
