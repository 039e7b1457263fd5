"""Read variables into fields, and turn mistakes into messages.

Only ``Settings.load`` reads the environment; ``Settings(...)`` sees only its arguments. An unknown variable that begins
with ``SENDQ_`` is an error, because a misspelt setting that is silently ignored is hard to find.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from sendq.errors import Problem
from settings.errors import SettingsError
from settings.values import KIND

ROOT = Path(__file__).parents[1]

PREFIX = "SENDQ_"

# Variables with the prefix that are not settings of a process.
OTHERS = {"SENDQ_PYTHON": "which Python ./dev uses"}

# Set by Kubernetes in every container when a Service is called sendq or sendq-something.
KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")

_environ: ContextVar[Mapping[str, str] | None] = ContextVar("environ", default=None)


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


def rows(settings: type[BaseSettings]) -> list[Row]:
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
        return str(default.relative_to(ROOT))
    return f"{default:g}" if isinstance(default, float) else str(default)


class EnvironSource(PydanticBaseSettingsSource):
    """Takes each field's value from the mapping passed to ``reading``."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        environ = _environ.get() or {}
        for variable in variables(field_name, field):
            if value := environ.get(variable, "").strip():
                return value, field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


@contextlib.contextmanager
def reading(settings: type[BaseSettings], environ: Mapping[str, str]) -> Iterator[None]:
    """Settings made in the block are read from ``environ``; all problems are raised as one ``SettingsError``."""
    problems = list(_unknown(settings, environ))
    token = _environ.set(environ)
    try:
        yield
    except ValidationError as error:
        problems += _problems(settings, error, environ)
    finally:
        _environ.reset(token)
    if problems:
        raise SettingsError(problems)


def _unknown(settings: type[BaseSettings], environ: Mapping[str, str]) -> Iterator[Problem]:
    known = {variable for row in rows(settings) for variable in row.env} | OTHERS.keys()
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or KUBERNETES.search(name):
            continue
        if name.endswith("_PORT") and environ[name].startswith(("tcp://", "udp://", "sctp://")):
            continue  # Kubernetes again
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        remedy = f"did you mean {nearest[0]}?" if nearest else "remove it (sendq settings lists all variables)"
        yield Problem(name, "is not a setting", remedy)


def _problems(settings: type[BaseSettings], error: ValidationError, environ: Mapping[str, str]) -> Iterator[Problem]:
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
