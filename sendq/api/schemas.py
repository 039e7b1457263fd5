"""JSON Schema (2020-12, as in OpenAPI 3.1) from the types of the Python API."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, timedelta
from enum import Enum, IntEnum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import BaseModel

from sendq.api.decoding import NEVER_TEXT, is_given
from sendq.enqueueing.expiry import Never
from sendq.messages.content import Content
from sendq.messages.fields import Recipient
from sendq.messages.unsubscribe import Unsubscribe

Schema = dict[str, Any]

TIME: Schema = {"type": "string", "format": "date-time"}
STRING: Schema = {"type": "string"}
BASE64: Schema = {"type": "string", "contentEncoding": "base64"}

_PLAIN: Mapping[Any, Schema] = {
    str: STRING, bool: {"type": "boolean"}, int: {"type": "integer"}, float: {"type": "number"}, datetime: TIME,
    timedelta: {"type": "number"}, date: {"type": "string", "format": "date"},
    type(None): {"type": "null"}, Never: {"const": NEVER_TEXT}, Content: BASE64,
}  # fmt: skip


class Schemas:
    """The schemas of a document by name. ``given``: of what clients send, where more is accepted than is answered."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, hint: Any, *, given: bool = False) -> Schema:
        """The schema of a type. Of data classes and models, a reference."""
        if hint in _PLAIN:
            return dict(_PLAIN[hint])
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.of(arguments[0], given=given)
        if origin in (Union, types.UnionType):
            return self._union(arguments, given)
        if origin in (list, tuple, Sequence, Collection, Iterable):
            return {"type": "array", "items": self.of(arguments[0], given=given)}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1], given=given)}
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _enum(hint, given)
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            return self._model(hint)
        if isinstance(hint, type) and is_dataclass(hint):
            return self._data_class(hint, given)
        return {}

    def object(self, hints: Mapping[str, Any], *, required: Iterable[str] = (), **more: Schema) -> Schema:
        """The schema of an object that clients send, with these fields and no others: null means that one is not set,
        unless it is ``required`` and its type has no null. ``more``: fields as they are.
        """
        fields_of = {name: self.of(hint, given=True) for name, hint in hints.items()}
        properties = {
            name.rstrip("_"): schema if name in required else nullable(schema) for name, schema in fields_of.items()
        }
        schema = {"type": "object", "properties": properties | more, "additionalProperties": False}
        return schema | ({"required": sorted(required)} if required else {})

    def _union(self, arguments: Sequence[Any], given: bool) -> Schema:
        has_enum = any(isinstance(one, type) and issubclass(one, Enum) for one in arguments)
        # Beside an enum, strings and numbers are its values.
        kinds = [one for one in arguments if not (has_enum and one in (str, int))]
        if given:  # an id is a string
            kinds = [one for one in kinds if one is not UUID and (is_given(one) or not is_dataclass(one))]
        found = [self.of(one, given=given) for one in kinds]
        return found[0] if len(found) == 1 else {"anyOf": found}

    def _model(self, model: type[BaseModel]) -> Schema:
        """A message or a part of one."""
        reference = {"$ref": f"#/components/schemas/{model.__name__}"}
        if model.__name__ not in self.named:
            self.named[model.__name__] = {}  # a part may contain itself
            hints = get_type_hints(model, include_extras=True)
            known = {name.rstrip("_"): (hints[name], info) for name, info in model.model_fields.items()}
            properties = {name: self._nullable(hint, info.is_required()) for name, (hint, info) in known.items()}
            required = sorted(name for name, (_, info) in known.items() if info.is_required())
            schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
            self.named[model.__name__] = schema | ({"required": required} if required else {})
        if model in (Recipient, Unsubscribe):  # a string, too
            return {"anyOf": [reference, STRING]}
        return reference

    def _nullable(self, hint: Any, required: bool) -> Schema:
        schema = self.of(hint, given=True)
        return schema if required or schema.get("type") == "array" else nullable(schema)

    def _data_class(self, kind: type, given: bool) -> Schema:
        if kind.__name__ not in self.named:
            self.named[kind.__name__] = {}
            hints = get_type_hints(kind)
            if given:
                taken = [one for one in fields(kind) if one.init]
                needed = [one.name for one in taken if one.default is MISSING and one.default_factory is MISSING]
                self.named[kind.__name__] = self.object({one.name: hints[one.name] for one in taken}, required=needed)
            else:
                properties = {one.name: self.of(hints[one.name]) for one in fields(kind)}
                self.named[kind.__name__] = {
                    "type": "object", "properties": properties, "required": sorted(properties),
                }  # fmt: skip
        return {"$ref": f"#/components/schemas/{kind.__name__}"}


def nullable(schema: Schema) -> Schema:
    """The schema, and null."""
    null = {"type": "null"}
    if null in schema.get("anyOf", ()):
        return schema
    return {"anyOf": [*schema.get("anyOf", [schema]), null]}


def _enum(kind: type[Enum], given: bool) -> Schema:
    if not issubclass(kind, IntEnum):
        return {"type": "string", "enum": [one.value for one in kind]}
    names: list[Any] = [one.name.lower() for one in kind]
    return {"enum": [*names, *(one.value for one in kind)]} if given else {"type": "string", "enum": names}
