"""Connections across a fork: a child leaves its parent's sockets alone, and opens its own."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def around_forks(owner: T, *, before: Callable[[T], Any] | None = None, in_child: Callable[[T], Any]) -> None:
    """Call ``before(owner)`` before each fork of this process, and ``in_child(owner)`` in each child.

    ``owner`` is not kept alive. Does nothing where processes do not fork (Windows).
    """
    if not hasattr(os, "register_at_fork"):
        return
    weak = weakref.ref(owner)

    def call(function: Callable[[T], Any] | None) -> None:
        alive = weak()
        if alive is not None and function is not None:
            function(alive)

    os.register_at_fork(before=lambda: call(before), after_in_child=lambda: call(in_child))
