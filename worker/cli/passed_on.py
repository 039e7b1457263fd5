"""For commands whose arguments are passed on to another program."""

from __future__ import annotations

PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
