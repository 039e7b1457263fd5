"""What problems say: the words of JSON and HTTP, not those of Python, whatever is wrong and wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sendq import NewBatch
from sendq import Send as PySend
from sendq.api.openapi import document
from tests.integration.api.conftest import MESSAGE, Client, told
from tests.integration.ledger.test_undo import changed
from tests.support.ledger import MESSAGE as MAIL
from tests.support.ledger import Ledger
from tests.unit.test_api_wording import PYTHON

# Of each field, one of these is right at most.
WRONG: tuple[Any, ...] = (
    "", "9" * 300, -1, True, [5], ["x", "x"], {"x": 5}, "2100-01-01",
    "2100-01-01T00:00:00", {"email": 5}, {"hours": "x"},
)  # fmt: skip
VALID: dict[str, dict[str, Any]] = {
    "Send": {"grant_id": "g1", "message": MESSAGE},
    "Replace": {"message": MESSAGE},
    "NewBatch": {"sends": [{"grant_id": "g1", "message": MESSAGE}]},
    "Modify": {"grant_id": "g1", "message_ids": ["m1"], "unread": True},
    "Delete": {"grant_id": "g1", "message_ids": ["m1"]},
    "SetPriority": {"priority": "low"},
    "Reschedule": {"due_at": None},
}


def bodies(schemas: Any, name: str) -> Iterator[dict[str, Any]]:
    """Bodies of an operation with one wrong field each, those of its message and query too."""
    valid = VALID.get(name, {})
    for field in schemas[name]["properties"]:
        for wrong in WRONG:
            yield valid | {field: wrong}
    if "message" in schemas[name]["properties"]:
        for field in schemas["Message"]["properties"]:
            for wrong in WRONG:
                yield valid | {"message": MESSAGE | {field: wrong}}
    if "query" in schemas[name]["properties"]:
        rest = {one: value for one, value in valid.items() if one != "message_ids"}
        for field in schemas["Query"]["properties"]:
            for wrong in WRONG:
                yield rest | {"query": {field: wrong}}
        threads = {"thread_ids": ["t"]}
        whole = threads | {"whole_threads": True}
        more = ({"shared_from": "a@example.com"}, {"undoable": True}, {"metadata": {"a": "b"}}, {"query_imap": True})
        yield from (rest | which | one for which in (threads, whole) for one in more)


class TestAProblem:
    def test_has_no_words_of_python(self, client: Client, kept: Ledger) -> None:
        undoable = changed(kept).id
        job = kept.queue.send("g1", MAIL).id
        batch = kept.queue.send_many([PySend("g1", MAIL)], batch=NewBatch(open=True)).id
        kept.absorb()
        found: dict[tuple[str, str], str] = {}
        schemas, seen = document()["components"]["schemas"], {"Sends", "Nothing"}
        for path, methods in document()["paths"].items():
            for method, operation in methods.items():
                which = undoable if operation["operationId"] == "undo" else batch
                url = path.format(job_id=job, batch_id=which, grant_id="g1")
                answers = []
                if method == "post":
                    content = operation["requestBody"]["content"]["application/json"]
                    schema = content["schema"]["$ref"].rpartition("/")[2]
                    answers += [client.post(url, body) for body in bodies(schemas, schema) if schema not in seen]
                    seen.add(schema)
                for one in operation.get("parameters", ()):
                    if one["in"] == "query":
                        for wrong in ("", "x", "-1", "5", "9" * 40, "2100-01-01", "a=b=c"):
                            answers.append(client.request(method.upper(), f"{url}?{one['name']}={wrong}"))
                for answer in answers:
                    for problem in told(answer).get("problems", ()):
                        found.setdefault((problem["reason"], problem["remedy"]), f"{url} {problem['field']}")
        assert len(found) > 50
        assert {text: where for text, where in found.items() if any(map(PYTHON.search, text))} == {}
