"""Listening on an address, and leaving on SIGTERM: for every HTTP server that a command runs."""

from __future__ import annotations

import os
import socket
from types import FrameType
from typing import NoReturn

from sendq.errors import Problem
from settings import SettingsError


def listening(host: str, port: int, *, remedy: str = "choose others") -> socket.socket:
    """A socket that listens; port 0 is a free one. Raises ``SettingsError`` with ``remedy`` if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError([Problem("--host, --port", f"cannot be listened on ({_reason(error)})", remedy)]) from None


def _reason(error: OSError) -> str | None:
    # Python adds the address to the system's words; a name that does not resolve has an errno of another kind.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror
    return os.strerror(error.errno)


def setting_error(variable: str, error: Exception) -> SettingsError:
    """An error about a file that a setting names, whose text is ``reason; remedy``."""
    reason, _, remedy = str(error).partition("; ")
    return SettingsError([Problem(variable, reason, remedy)])


def at(host: str, port: int) -> str:
    """The address of a server's root."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    """Ends the process well. uvicorn handles the signal first, stops, and then passes it on."""
    raise SystemExit(0)
