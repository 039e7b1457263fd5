"""``sendq token``: the tokens of the HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.connection import load_settings
from worker.cli.output import FAILED, complain, json_option, tell, tell_json, when
from worker.cli.params import duration

if TYPE_CHECKING:
    from sendq.api import Token

file_option = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The token file (default: SENDQ_API_TOKENS_FILE).",
)


@click.group()
def token() -> None:
    """Tokens of the HTTP API, in the file that SENDQ_API_TOKENS_FILE names: create, list and revoke them."""


@token.command()
@click.argument("name")
@click.option("--write", is_flag=True, help="It may enqueue, change and cancel; without this it may only read.")
@click.option(
    "--application", default="default", show_default=True, metavar="NAME", help="The only application that it may use."
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="PATTERN",
    help="A grant that it may use; * stands for any characters, as in team-*. Repeatable (default: every grant).",
)
@click.option(
    "--expires", type=duration, metavar="DURATION", help="How long it is valid, like 90d (default: for ever)."
)
@file_option
def create(
    name: str, write: bool, application: str, grants: tuple[str, ...], expires: timedelta | None, path: Path | None
) -> None:
    """Create a token called NAME, and print it: this is the only time that it is shown.

    The file has only a digest of it. Servers read the file again when it changes.
    """
    from sendq.api import Access, add_token, new_token

    now = datetime.now(UTC)
    new, text = new_token(
        name,
        application=application,
        grants=grants or ("*",),
        access=Access.WRITE if write else Access.READ,
        expires_at=None if expires is None else now + expires,
        now=now,
    )
    with _trouble():
        add_token(_file(path), new)
    complain(f"created {new.name} ({_scope(new)}); the token is shown only now:")
    tell(text)


@token.command("list")
@json_option
@file_option
def list_(as_json: bool, path: Path | None) -> None:
    """List the tokens with their scopes; the tokens themselves are not stored."""
    from sendq.api import TokenFile

    with _trouble():
        tokens = list(TokenFile(_file(path)).tokens().values())
    if as_json:
        tell_json([one.as_json() for one in tokens])
        return
    now = datetime.now(UTC)
    for one in tokens:
        tell(f"{one.name}: {_scope(one)}; created {when(one.created_at)}{_expiry(one, now)}")
    if not tokens:
        complain("there are no tokens")


@token.command()
@click.argument("name")
@file_option
def revoke(name: str, path: Path | None) -> None:
    """Revoke the token called NAME: it is refused at once."""
    from sendq.api import remove_token

    with _trouble():
        removed = remove_token(_file(path), name)
    if not removed:
        complain("there is no token of this name; `sendq token list` lists them")
        raise SystemExit(FAILED)
    complain(f"revoked {name}")


def _file(given: Path | None) -> Path:
    path = given or load_settings().api_tokens_file
    if path is None:
        raise click.UsageError("give --file, or set SENDQ_API_TOKENS_FILE")
    return path


@contextmanager
def _trouble() -> Iterator[None]:
    from sendq.api import TokenFileError

    try:
        yield
    except TokenFileError as error:
        raise click.UsageError(str(error)) from None


def _scope(one: Token) -> str:
    grants = "every grant" if one.covers_all else f"grants {', '.join(one.grants)}"
    return f"{one.access}, {grants} of {one.application}"


def _expiry(one: Token, now: datetime) -> str:
    if one.expires_at is None:
        return ""
    return f", {'expired' if one.has_expired(now) else 'expires'} {when(one.expires_at)}"
