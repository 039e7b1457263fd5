"""Django's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

_url = make_url(os.environ["SHOP_DATABASE"])


def _database() -> dict[str, Any]:
    """The address as Django wants it."""
    if _url.get_backend_name() == "sqlite":
        # IMMEDIATE: a transaction that reads first and then writes waits for its turn, instead of failing at once.
        options = {"transaction_mode": "IMMEDIATE", "timeout": 30}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": _url.database, "OPTIONS": options}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.database,
        "HOST": _url.host or "",
        "PORT": _url.port or "",
        "USER": _url.username or "",
        "PASSWORD": _url.password or "",
    }


SECRET_KEY = os.environ["SHOP_SECRET_KEY"]
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["shop"]
MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
ROOT_URLCONF = "shop.views"
DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [Path(__file__).parent]}]
USE_TZ = True

SHOP_LEDGER = os.environ["SHOP_DATABASE"]
SHOP_GRANT = os.environ["SHOP_GRANT"]
