"""The error that is raised for invalid settings."""

from __future__ import annotations

from collections.abc import Sequence

from sendq.errors import Problem


class SettingsError(Exception):
    """The settings cannot be used. One line per problem: the variable, what is wrong, what to do; never the value."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[SettingsError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)
