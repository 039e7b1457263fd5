"""``./dev build``: the two wheels, each with a bill of materials (CycloneDX), in ``dist``.

The same sources produce the same bytes. The bill of ``sendq-worker`` lists what ``requirements/worker.txt`` pins, with
hashes and licences; that of ``sendq`` the part of it that ``sendq`` alone needs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECTS = (ROOT, ROOT / "wheels" / "worker")
PINS = ROOT / "requirements" / "worker.txt"

# Runs in the environment that has the packages: their licences, and what each requires.
METADATA = """
import json
from importlib.metadata import distributions
print(json.dumps({
    one.name: {
        "licence": one.metadata["License-Expression"],
        "classifiers": [each for each in one.metadata.get_all("Classifier") or [] if each.startswith("License ::")],
        "text": one.metadata["License"],
        "requires": [each for each in one.requires or [] if "extra ==" not in each],
    }
    for one in distributions()
}))
"""


def main(arguments: list[str]) -> int:
    """Build everything; prints the files made."""
    parser = argparse.ArgumentParser(prog="./dev build", description="Build the wheels and their bills of materials.")
    parser.add_argument("python", help=argparse.SUPPRESS)  # of an environment with the pinned packages
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="directory for the files (default: dist)")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    known = metadata_of(given.python)
    for project in PROJECTS:
        described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        wheel = given.out / f"{described['name'].replace('-', '_')}-{described['version']}-py3-none-any.whl"
        build(project, given.out)
        bill = wheel.with_suffix(".cdx.json")
        needed = None if project != ROOT else closure(described["dependencies"], known)
        bill.write_text(json.dumps(materials(project, known, needed), indent=2, sort_keys=True) + "\n")
        print(wheel, bill, sep="\n")
    return 0


def build(project: Path, out: Path) -> None:
    """One wheel; hatchling gives every file in it the same date and rights."""
    environ = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out.absolute())]
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the wheel of {project} could not be built:\n{done.stdout}{done.stderr}")


def materials(project: Path, known: dict[str, Any], needed: set[str] | None) -> dict[str, Any]:
    """The bill of materials: every pinned package, or only those that are ``needed``."""
    command = [
        sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--output-format", "JSON",
        "--pyproject", str(project / "pyproject.toml"), "--mc-type", "application", str(PINS),
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bill: dict[str, Any] = json.loads(made)
    components = [one for one in bill["components"] if needed is None or canonical(one["name"]) in needed]
    for one in components:
        one.pop("description", None)  # the line in the requirements file
        if licences := licences_of(known.get(canonical(one["name"]), {})):
            one["licenses"] = licences
    kept = {one["bom-ref"] for one in components} | {bill["metadata"]["component"]["bom-ref"]}
    bill["components"] = components
    bill["dependencies"] = [
        one | ({"dependsOn": [ref for ref in one["dependsOn"] if ref in kept]} if "dependsOn" in one else {})
        for one in bill["dependencies"]
        if one["ref"] in kept
    ]
    return bill


def metadata_of(python: str) -> dict[str, Any]:
    """The metadata of the packages in an environment, by canonical name."""
    made = subprocess.run([python, "-c", METADATA], capture_output=True, text=True, check=True).stdout
    return {canonical(name): one for name, one in json.loads(made).items()}


def licences_of(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """A package's licence in CycloneDX's form: an SPDX expression, otherwise the names that its metadata give."""
    if expression := metadata.get("licence"):
        return [{"expression": expression, "acknowledgement": "declared"}]
    names = [one.rpartition(" :: ")[2] for one in metadata.get("classifiers", ())]
    text = (metadata.get("text") or "").strip().partition("\n")[0]
    return [{"license": {"name": name, "acknowledgement": "declared"}} for name in names or filter(None, [text])]


def closure(requirements: list[str], known: dict[str, Any]) -> set[str]:
    """The packages that these requirements bring, by canonical name."""
    found: set[str] = set()
    left = list(requirements)
    while left:
        name = canonical(re.split(r"[^\w.-]", left.pop(), maxsplit=1)[0])
        if name not in found and name in known:
            found.add(name)
            left += known[name]["requires"]
    return found


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
