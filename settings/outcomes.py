"""Allowed receivers of outcomes: named endpoints, allowed hosts, and the secrets that sign their webhooks."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr

from sendq.enqueueing.targets import CELERY_QUEUE, host_fault, is_endpoint_name, parse_target, task_pattern_fault
from sendq.errors import Problem
from sendq.outcomes import secret_bytes
from settings.values import Trimmed, is_loopback, refuse

_HOW_TO_MAKE_ONE = 'make one with: printf "whsec_%s" "$(openssl rand -base64 32)"'
_SHAPE = 'write {"name": {"url": "https://hooks.example.com/mail", "secret": "whsec_…"}, …}'


def _signing_secret(secret: SecretStr) -> SecretStr:
    try:
        secret_bytes(secret.get_secret_value())
    except ValueError:
        raise refuse("is not whsec_ followed by the base64 of 24 to 64 bytes", _HOW_TO_MAKE_ONE) from None
    return secret


_container = re.compile(r"[a-z](?:[a-z0-9_-]*[a-z0-9])?").fullmatch


def _webhook_url(secret: SecretStr) -> SecretStr:
    """https, or http to this machine or to a host name without a dot (another container)."""
    url = secret.get_secret_value()
    try:
        parts = urlsplit(url)
    except ValueError:
        raise refuse("is not an address", "check brackets and port") from None
    host = parts.hostname or ""
    near = parts.scheme == "http" and (is_loopback(host) or _container(host) is not None)
    found = parse_target(f"https{url.removeprefix('http')}" if near else url)
    if isinstance(found, Problem) or parts.scheme not in ("http", "https"):
        reason = found.reason if isinstance(found, Problem) else "is not a web address"
        raise refuse(reason, "give an https:// address (http:// is for this machine)")
    return secret


SigningSecret = Annotated[SecretStr, Trimmed, AfterValidator(_signing_secret)]


class Endpoint(BaseModel):
    """A named webhook. Addresses contain tokens, so they are never shown.

    Without a ``secret`` it is signed with SENDQ_OUTCOME_SECRET.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[SecretStr, Trimmed, AfterValidator(_webhook_url)]
    secret: SigningSecret | None = None


def _named(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise refuse("is not JSON", _SHAPE) from None
    if not isinstance(value, dict):
        raise refuse("is not a JSON object", _SHAPE)
    if bad := [name for name in value if not is_endpoint_name(name)]:
        raise refuse(f"has {len(bad)} invalid name(s)", "use 1 to 40 of a-z, 0-9, - and _ for names")
    return value


def _hosts(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    hosts = tuple(host.strip().lower() for host in value.split(",") if host.strip())
    for number, host in enumerate(hosts, 1):
        if host_fault(host) is not None:
            raise refuse(f"has an invalid host (number {number})", "write hooks.example.com, other.example:8443")
    return hosts


def _tasks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    entries = tuple(entry.strip() for entry in value.split(",") if entry.strip())
    for number, entry in enumerate(entries, 1):
        if task_pattern_fault(entry) is not None:
            raise refuse(f"has an invalid task (number {number})", "write shop.tasks.mail_outcome@shop, billing.*")
    return entries


def _receivers(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    for number, name in enumerate(names, 1):
        target = parse_target(name)
        known = name == CELERY_QUEUE or (not isinstance(target, Problem) and target.receiver == name)
        if not known:
            raise refuse(f"has an invalid receiver (number {number})", "write webhook:NAME, https://host or celery")
    return names


def _target(value: str) -> str:
    found = parse_target(value)
    if isinstance(found, Problem):
        raise refuse(found.reason, found.remedy)
    return value


Endpoints = Annotated[dict[str, Endpoint], BeforeValidator(_named)]
Tasks = Annotated[tuple[str, ...], BeforeValidator(_tasks)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
Receivers = Annotated[tuple[str, ...], BeforeValidator(_receivers)]
TargetName = Annotated[str, Trimmed, AfterValidator(_target)]
