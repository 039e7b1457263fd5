"""The console: pages on which people see what waits and why, and act. An ASGI application, to mount or to serve.

It needs the extra ``console`` (Starlette, Jinja2). Nothing else of `sendq` imports it.

    from sendq.console import Person, Role, console

    def who(request):  # of your own login
        user = request.user
        return Person(user.name, Role.OPERATOR if user.is_staff else Role.VIEWER) if user.is_authenticated else None

    application.mount("/mail", console("postgresql+psycopg://…", who=who))

It reads and acts through `sendq.Operators`, and shows no body, subject or address.
"""

from __future__ import annotations

from sendq.console.application import console
from sendq.console.identity import Person, ProxyHeader, Role, anyone
from sendq.console.passwords import PasswordFile, PasswordFileError, password_line
from sendq.console.texts import RuleText

__all__ = [
    "PasswordFile",
    "PasswordFileError",
    "Person",
    "ProxyHeader",
    "Role",
    "RuleText",
    "anyone",
    "console",
    "password_line",
]
