"""The OpenAPI 3.1 document, from the table of operations and the types of the Python API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

from sendq.api import jobs, modifying, sending
from sendq.api.bodies import FORM_TYPE, JSON_TYPE
from sendq.api.decoding import SENDS_MOST, option_hints
from sendq.api.operation import Operation
from sendq.api.problems import KINDS, MEDIA_TYPE
from sendq.api.routes import OPERATIONS
from sendq.api.schemas import BASE64, STRING, Schema, Schemas, nullable
from sendq.enqueueing.batch_sends import NewBatch
from sendq.enqueueing.options import Options, OptionsGiven
from sendq.enqueueing.query import Query
from sendq.messages.message import Message
from sendq.views import Batch, BatchView, Eta, GrantView, Job, JobLine, JobView, Replacement, Why

VERSION = "1"  # of the API: the v1 of its paths

INTEGER: Schema = {"type": "integer"}
_parameter = re.compile(r"\{(\w+)\}").findall

# What only an answer has: computed by ``as_json``.
COMPUTED: Mapping[str, Mapping[str, Schema]] = {
    "BatchView": {"waiting": INTEGER, "progress": {"type": "number"}},
    "GrantView": {"connected": {"type": "boolean"}, "held_until": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
}

# The statuses that any operation may answer, and those of operations with a body, or with an id or parameters.
_ALL, _WITH_BODY, _WITH_ID = (401, 403, 405, 422, 429, 500, 503), (400, 408, 409, 413, 415), (404,)

_ABOUT = """\
The calls of the Python API in JSON. `201` is answered once everything is committed; a request with a key that was used
before, with the same content, is answered with `200` and what the first one made. Times are in ISO 8601 with a zone.
"""


@cache
def document() -> Mapping[str, Any]:
    """The document."""
    schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sendq", "version": VERSION, "description": _ABOUT},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.named.items())),
            "responses": {str(status): _problem(status) for status in sorted({one.status for one in KINDS.values()})},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": STRING} for name in _parameter(operation.path)
    ]
    for name, hint in operation.query.items():
        parameters.append({"name": name, "in": "query", "schema": _of_query(schemas.of(hint, given=True))})
    if operation.keyed:
        key = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": key})
    if operation.enqueues and operation.name != "undo":
        trace = {"description": "Of W3C Trace Context; an invalid one is ignored", "schema": STRING}
        parameters.append({"name": "traceparent", "in": "header", **trace})
    if parameters:
        found["parameters"] = parameters
    statuses = {*_ALL}
    if operation.body is not None:
        content: dict[str, Any] = {JSON_TYPE: {"schema": _reference(operation.body)}}
        if operation.form:
            content[FORM_TYPE] = _form(operation.body)
        found["requestBody"] = {"required": not operation.optional, "content": content}
        statuses |= {*_WITH_BODY}
    if "{" in operation.path or operation.query:
        statuses |= {*_WITH_ID}
    answers = {str(status): _answer(operation, status, name) for status, name in sorted(operation.results.items())}
    problems = {str(one): {"$ref": f"#/components/responses/{one}"} for one in sorted(statuses)}
    return found | {"responses": answers | problems}


def _answer(operation: Operation, status: int, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": "It existed already: what the first request made" if status == 200 and 201 in operation.results
        else HTTPStatus(status).phrase,
        "content": {JSON_TYPE: {"schema": _reference(name)}},
    }  # fmt: skip
    if operation.enqueues and operation.name != "send_many":
        found["headers"] = {"Location": {"schema": STRING, "description": "The path of what it made", "required": True}}
    return found


def _form(body: str) -> dict[str, Any]:
    properties: dict[str, Schema] = {
        "send": _reference(body),
        "attachments": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "mime": {"type": "string", "format": "binary"},
    }
    schema = {"type": "object", "properties": properties, "required": ["send"]}
    return {"schema": schema, "encoding": {"send": {"contentType": JSON_TYPE}}}


def _problem(status: int) -> dict[str, Any]:
    titles = [one.title for one in KINDS.values() if one.status == status]
    found: dict[str, Any] = {
        "description": " / ".join(titles),
        "content": {MEDIA_TYPE: {"schema": _reference("Problem")}},
    }
    if status in (408, 429, 503):
        found["headers"] = {"Retry-After": {"schema": INTEGER, "required": True, "description": "Seconds"}}
    return found


def _of_query(schema: Schema) -> Schema:
    """A parameter that is left out is not null."""
    kinds = [one for one in schema.get("anyOf", [schema]) if one != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Schemas:
    schemas = Schemas()
    sends = {"type": "array", "items": _reference("Send"), "maxItems": SENDS_MOST}
    which = _one_of(message_ids="array", thread_ids="array", query="object")
    query = nullable(schemas.of(Query, given=True))
    bulk = dict(option_hints(OptionsGiven))
    schemas.of(Message)
    named = schemas.named
    content = {"message": nullable(_reference("Message")), "mime": nullable(BASE64)}
    one_of = _one_of(message="object", mime="string")
    named["Send"] = schemas.object(option_hints(Options), required=["grant_id"], grant_id=STRING, **content) | one_of
    named["Replace"] = schemas.object(sending.REPLACE, **content) | one_of
    named["Sends"] = schemas.object({}, required=["sends"], sends=sends)
    named["NewBatch"] = schemas.object(option_hints(NewBatch), sends=sends)
    changes = modifying.CHANGES | modifying.WHICH | modifying.MODIFY
    named["Modify"] = schemas.object(changes | bulk, required=["grant_id"], grant_id=STRING, query=query) | which
    deletions = modifying.WHICH | modifying.DELETE
    named["Delete"] = schemas.object(deletions | bulk, required=["grant_id"], grant_id=STRING, query=query) | which
    named["Undo"] = schemas.object(modifying.UNDO)
    named["Reschedule"] = schemas.object(jobs.RESCHEDULE, required=["due_at"])
    named["SetPriority"] = schemas.object(jobs.PRIORITY, required=["priority"])
    named["Reason"] = schemas.object(jobs.REASON)
    named["Nothing"] = schemas.object({})
    for view in (Job, Replacement, Batch, BatchView, JobView, JobLine, Why, GrantView, Eta):
        schemas.of(view)
    for name, computed in COMPUTED.items():
        named[name]["properties"] |= computed
    items = {"type": "array", "items": _reference("JobLine")}
    named["Jobs"] = _answer_of(jobs={"type": "array", "items": _reference("Job")})
    named["Page"] = _answer_of(items=items, next={"anyOf": [STRING, {"type": "null"}]})
    named["JobState"] = _answer_of(state=named["JobView"]["properties"]["state"])
    named["Changed"] = _answer_of(changed=INTEGER)
    named["Closed"] = _answer_of(total=INTEGER)
    named["FieldProblem"] = _answer_of(field=STRING, reason=STRING, remedy=STRING)
    problems = {"type": "array", "items": _reference("FieldProblem")}
    whole = _answer_of(type=STRING, title=STRING, status=INTEGER, detail=STRING)
    further = {"problems": problems, "job_id": STRING, "batch_id": STRING, "id": STRING, "state": STRING}
    further["content_version"] = INTEGER
    named["Problem"] = whole | {"properties": whole["properties"] | further}
    return schemas


def _one_of(**kinds: str) -> Schema:
    """Exactly one of these fields is set: it has its type, and the others are null or left out."""
    null = {"type": "null"}
    branches = [
        {"required": [name], "properties": {one: {"type": kind} if one == name else null for one in kinds}}
        for name, kind in kinds.items()
    ]
    return {"oneOf": branches}


def _answer_of(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": sorted(properties)}
