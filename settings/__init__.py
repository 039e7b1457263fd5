"""The settings: one frozen object, read once from the environment.

    from settings import Settings
    settings = Settings.load()          # every problem at once, each with its remedy, as one SettingsError

``model`` holds the fields with their meaning, ``values`` the types they can have, ``application`` a Nylas
application and its key, and ``environ`` the way from variables to fields and from a mistake to a sentence. Beside them
stands what is derived from the settings: the configuration of Celery (``celery``), of Sentry (``sentry``) and of the
log (``logs``), the last two through the same ``redact``. Secrets never print: not in a repr, a dump, an error or a log
line.
"""

from __future__ import annotations

from settings.application import Application
from settings.environ import Row
from settings.errors import SettingsError
from settings.model import Settings

__all__ = ["Application", "Row", "Settings", "SettingsError"]
