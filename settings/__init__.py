"""The settings: one frozen object, read once from the environment.

    from settings import Settings
    settings = Settings.load()          # raises one SettingsError with every problem and its remedy

``model`` declares the fields and their meaning, ``values`` their types, ``application`` a Nylas application and its
key; ``environ`` reads the variables and turns mistakes into messages. The configuration of Celery (``celery``), Sentry
(``sentry``) and logging (``logs``) is derived from the settings; the last two use the same ``redact``. Secrets are
never printed: not in a repr, a dump, an error or a log line.
"""

from __future__ import annotations

from settings.application import Application
from settings.environ import Row
from settings.errors import SettingsError
from settings.model import Settings

__all__ = ["Application", "Row", "Settings", "SettingsError"]
