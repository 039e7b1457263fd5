"""Take from the official OpenAPI document the facts that our simulator has to keep, and nothing else.

    python tests/data/extract_facts.py nylas-openapi.yml > tests/data/nylas_facts.json

Facts are types, required members, enumerations, limits and nesting of the operations the simulator has, for each status
the document declares; prose, samples and everything else stay behind. References are resolved. Where ``allOf`` joins a
general envelope with the particular one, the later declaration of a member wins: taken literally, the document asks
that ``data`` of a list be an object and an array at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

OPERATIONS = {
    "send": ("/v3/grants/{grant_id}/messages/send", "post"),
    "list": ("/v3/grants/{grant_id}/messages", "get"),
    "get": ("/v3/grants/{grant_id}/messages/{message_id}", "get"),
    "modify": ("/v3/grants/{grant_id}/messages/{message_id}", "put"),
    "delete": ("/v3/grants/{grant_id}/messages/{message_id}", "delete"),
    "modify_thread": ("/v3/grants/{grant_id}/threads/{thread_id}", "put"),
    "grants": ("/v3/grants", "get"),
    "grant": ("/v3/grants/{grantId}", "get"),
}
PLAIN = ("type", "required", "enum", "minItems", "maxItems", "maxLength", "minimum", "maximum")
JSON, FORM = "application/json", "multipart/form-data"


class Document:
    def __init__(self, path: Path) -> None:
        self._tree: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)

    def operation(self, path: str, method: str) -> Any:
        return self._tree["paths"][path][method]

    def resolve(self, node: Any) -> Any:
        while "$ref" in node:
            target = self._tree
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step.replace("~1", "/").replace("~0", "~")]
            node = target
        return node

    def reduced(self, node: Any) -> dict[str, Any]:
        """A schema without its prose."""
        node = self.resolve(node)
        facts = {name: node[name] for name in PLAIN if name in node}
        if "properties" in node:
            facts["properties"] = {name: self.reduced(value) for name, value in node["properties"].items()}
        if "items" in node:
            facts["items"] = self.reduced(node["items"])
        if "additionalProperties" in node:
            more = node["additionalProperties"]
            facts["additionalProperties"] = self.reduced(more) if isinstance(more, dict) else more
        for part in node.get("allOf", ()):
            joined = self.reduced(part)
            properties = {**facts.get("properties", {}), **joined.get("properties", {})}
            facts = {**facts, **joined, "properties": properties}
        return facts


def facts(document: Document) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (path, method) in OPERATIONS.items():
        operation = document.operation(path, method)
        found[name] = {
            status: document.reduced(document.resolve(response)["content"][JSON]["schema"])
            for status, response in operation["responses"].items()
        }
        if "requestBody" in operation:
            body = document.resolve(operation["requestBody"])
            found[name]["request"] = document.reduced(body["content"][JSON]["schema"])
            if FORM in body["content"]:
                found[name]["form"] = document.reduced(body["content"][FORM]["schema"])
    return found


def main() -> None:
    found = facts(Document(Path(sys.argv[1])))
    # One line for each operation and status: a change of the document shows as the lines it changes.
    operations = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(status)}: {json.dumps(schema)}" for status, schema in statuses.items())
        + "\n }"
        for name, statuses in found.items()
    ]
    print("{\n" + ",\n".join(operations) + "\n}")


if __name__ == "__main__":
    main()
