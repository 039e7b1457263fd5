"""A Nylas application: its API key, base URL and webhook secret."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from sendq.errors import Problem
from settings.errors import SettingsError
from settings.values import AbsolutePath, ApiUri, Key, refuse

# Where all grants of an application have the same one.
Provider = Literal["google", "microsoft", "ews", "imap", "icloud", "yahoo", "nylas"]

US = "https://api.us.nylas.com"


class Application(BaseModel):
    """One Nylas application. ``api_key()`` returns its key, reading the key file on each call if there is one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    api_uri: ApiUri = US
    client_id: str | None = None
    webhook_secret: Key | None = None
    provider: Provider | None = None
    key: Key | None = Field(default=None, alias="api_key")
    key_file: AbsolutePath | None = Field(default=None, alias="api_key_file")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key is not None and self.key_file is not None:
            raise refuse("has both api_key and api_key_file", "keep one of the two")
        return self

    def variable(self, field: str) -> str:
        """The variable that sets ``field`` (``api_key``, ``api_uri``, …) of this application."""
        return f"NYLAS_{field.upper()}" if self.name == "default" else f"SENDQ_APPLICATIONS.{self.name}.{field}"

    def _no_key(self) -> str:
        file = self.variable("api_key_file")
        return f"set it to the API key from the Nylas dashboard, or set {file} to the path of a file with the key"

    def api_key(self) -> SecretStr:
        """The API key. A key file is read each time, so that a new key needs no restart.

        Raises ``SettingsError`` if there is none, or its file cannot be read or holds no key.
        """
        if self.key is not None:
            return self.key
        if self.key_file is None:
            raise SettingsError([Problem(self.variable("api_key"), "is not set", self._no_key())])
        field = self.variable("api_key_file")
        try:
            text = self.key_file.read_text(encoding="ascii")
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise SettingsError([Problem(field, reason, "check the path and the file's permissions")]) from None
        except UnicodeDecodeError:
            raise SettingsError([Problem(field, "names a file with more than a key in it", _FILE_REMEDY)]) from None
        try:
            return _key_adapter.validate_python(text)
        except ValidationError:
            raise SettingsError([Problem(field, "names a file without a key", _FILE_REMEDY)]) from None


def _named(value: object) -> object:
    """Parse JSON text (or take the object itself), and add each application's name to its fields."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise refuse("is not JSON", _SHAPE) from None
    if not isinstance(value, dict):
        raise refuse("is not a JSON object", _SHAPE)
    if bad := [name for name in value if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name)]:
        raise refuse(f"has {len(bad)} invalid name(s)", "use 1 to 40 of a-z, 0-9, - and _ for names")
    return {name: {"name": name, **fields} if isinstance(fields, dict) else fields for name, fields in value.items()}


_SHAPE = 'write {"name": {"api_key_file": "/path", "api_uri": "https://api.eu.nylas.com"}, …}'
NamedApplications = Annotated[dict[str, Application], BeforeValidator(_named)]

_FILE_REMEDY = "put only the key into the file, on one line"
_key_adapter: TypeAdapter[SecretStr] = TypeAdapter(Key)
