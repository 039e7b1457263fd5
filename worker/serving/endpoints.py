"""Nylas applications as the client sees them: a base URL and an API key, which is reread when it may have changed."""

from __future__ import annotations

import time
from collections.abc import Callable

from settings import Application, Settings, SettingsError

# A changed key file is noticed within this time. Reading it for each of a thousand calls per second would cost more
# than the calls.
KEY_KEPT_S = 1.0


class Endpoint:
    """One application. ``api_key`` raises ``ValueError`` if there is no key; the call is then not made."""

    def __init__(self, application: Application, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._application, self._monotonic = application, monotonic
        self._key = ""
        self._read_at = float("-inf")

    @property
    def api_uri(self) -> str:
        return str(self._application.api_uri)

    def api_key(self) -> str:
        if self._monotonic() - self._read_at > KEY_KEPT_S:
            try:
                self._key = self._application.api_key().get_secret_value()
            except SettingsError as error:
                raise ValueError(str(error)) from error
            self._read_at = self._monotonic()
        return self._key


class Unconfigured:
    """An application that jobs refer to but that is not configured here: calls for it are not made."""

    api_uri = "https://unconfigured.invalid"

    def api_key(self) -> str:
        raise ValueError("this application is not configured: add it to SENDQ_APPLICATIONS")


class Endpoints:
    """All applications by name."""

    def __init__(self, settings: Settings) -> None:
        self._known = {name: Endpoint(application) for name, application in settings.applications.items()}
        self._unknown = Unconfigured()

    def __getitem__(self, name: str) -> Endpoint | Unconfigured:
        return self._known.get(name, self._unknown)
