"""``sendq password``: a line for the console's password file."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("name")
@click.option("--operator", is_flag=True, help="NAME may act; without it NAME may only read.")
def password(name: str, operator: bool) -> None:
    """Ask for a password, and print the line of NAME for the console's password file.

    Only a hash of the password is in it (scrypt). Append the line: `sendq password anna --operator >> passwords`. If
    stdin is not a terminal, the password is its first line.
    """
    from sendq.console.identity import Role
    from sendq.console.passwords import password_line

    if sys.stdin.isatty():
        given = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        given = sys.stdin.readline().rstrip("\r\n")
    try:
        line = password_line(name, given, Role.OPERATOR if operator else Role.VIEWER)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(line)
