"""Types of the console's settings: which proxies are trusted, which header names the person, who may act."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr

from settings.values import Trimmed, refuse

SECRET_LEAST = 32  # characters: 128 bits in hexadecimal

_header = re.compile(r"[A-Za-z0-9-]{1,100}").fullmatch


def _networks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = tuple(one.strip() for one in value.split(",") if one.strip())
    for number, one in enumerate(found, 1):
        try:
            ip_network(one)
        except ValueError:
            remedy = "write addresses or networks: 10.0.0.7, 10.0.0.0/8"
            raise refuse(f"has an invalid network (number {number})", remedy) from None
    return found


def _names(value: Any) -> Any:
    return tuple(one.strip() for one in value.split(",") if one.strip()) if isinstance(value, str) else value


def _header_name(value: str) -> str:
    if not _header(value):
        raise refuse("is not the name of a header", "write one like X-Forwarded-User")
    return value


def _secret(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < SECRET_LEAST:
        raise refuse(f"has fewer than {SECRET_LEAST} characters", "make one with: openssl rand -hex 32")
    return secret


Networks = Annotated[tuple[str, ...], BeforeValidator(_networks)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
HeaderName = Annotated[str, Trimmed, AfterValidator(_header_name)]
ConsoleSecret = Annotated[SecretStr, Trimmed, AfterValidator(_secret)]
