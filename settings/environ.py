"""Read variables into fields, and turn mistakes into messages.

Only ``Settings.load`` reads the environment; ``Settings(...)`` sees only its arguments. An unknown variable that begins
with ``SENDQ_`` is an error, because a misspelt setting that is silently ignored is hard to find.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sendq.errors import Problem
from settings.errors import SettingsError
from settings.values import KIND

ROOT = Path(__file__).parents[1]
IN_CHECKOUT = (ROOT / "pyproject.toml").is_file()  # otherwise ROOT is site-packages, or the image's directory

PREFIX = "SENDQ_"

# Variables with the prefix that are not settings of a process.
OTHERS = {"SENDQ_PYTHON": "which Python ./dev uses"}

# Set by Kubernetes in every container when a Service is called sendq or sendq-something.
KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")

S = TypeVar("S", bound=BaseModel)


class Row(NamedTuple):
    """One row of the settings table."""

    name: str
    env: tuple[str, ...]
    meaning: str
    unit: str
    default: str


def variables(name: str, field: FieldInfo) -> tuple[str, ...]:
    """The variables that a field is read from, in order of precedence."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    usual: Any = extra["usual"]
    return tuple(usual) if extra["only"] else (f"{PREFIX}{name.upper()}", *usual)


def rows(settings: type[BaseModel]) -> list[Row]:
    """Every setting, in order of declaration."""
    table = []
    for name, field in settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        table.append(
            Row(name, variables(name, field), field.description or "", str(extra["unit"]), _shown(field.default))
        )
    return table


def _shown(default: object) -> str:
    if default is None or default in ({}, ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Path):
        return str(default.relative_to(ROOT) if default.is_relative_to(ROOT) else default)
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def read(settings: type[S], environ: Mapping[str, str]) -> S:
    """Settings from the variables in ``environ``; all problems are raised as one ``SettingsError``."""
    problems = list(_unknown(settings, environ))
    try:
        found = settings.model_validate(_values(settings, environ))
    except ValidationError as error:
        problems += _problems(settings, error, environ)
    if problems:
        raise SettingsError(problems)
    return found


def _values(settings: type[BaseModel], environ: Mapping[str, str]) -> dict[str, str]:
    """The first variable of each field that is set and not empty."""
    values = {}
    for name, field in settings.model_fields.items():
        for variable in variables(name, field):
            if value := environ.get(variable, "").strip():
                values[name] = value
                break
    return values


def _unknown(settings: type[BaseModel], environ: Mapping[str, str]) -> Iterator[Problem]:
    known = {variable for row in rows(settings) for variable in row.env} | OTHERS.keys()
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or KUBERNETES.search(name):
            continue
        if name.endswith("_PORT") and environ[name].startswith(("tcp://", "udp://", "sctp://")):
            continue  # Kubernetes again
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        remedy = f"did you mean {nearest[0]}?" if nearest else "remove it (sendq settings lists all variables)"
        yield Problem(name, "is not a setting", remedy)


def _problems(settings: type[BaseModel], error: ValidationError, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Pydantic's errors as problems, in their order, each with the variable that was set."""
    for item in error.errors(include_url=False, include_input=False):
        context = item.get("ctx", {})
        if "problems" in context:
            yield from context["problems"]
            continue
        name, *inner = item["loc"]
        field = settings.model_fields[str(name)]
        names = variables(str(name), field)
        variable = next((each for each in names if environ.get(each, "").strip()), names[0])
        reason = item["msg"].removeprefix("Input ")
        remedy = context["remedy"] if item["type"] == KIND else _remedy(field, bool(inner))
        yield Problem(".".join([variable, *map(str, inner)]), reason[0].lower() + reason[1:], remedy)


def _remedy(field: FieldInfo, inner: bool) -> str:
    default, extra = _shown(field.default), field.json_schema_extra
    if inner or not default:
        return f"expected: {field.description}"
    unit = extra["unit"] if isinstance(extra, dict) else ""
    return f"correct it, or remove it for the default of {default} {unit}".rstrip()
