"""The documentation pages: the parts generated from the code, and the snippets that the tests run.

``./dev generate`` writes the generated parts: the tables of the policy, of the settings and of the measured queues, the
code of the examples, and the tree of folders.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import readme
from settings import Settings
from tasks.policy.explain import policy_table_markdown
from tests.support.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
GENERATED_ALSO = ("CONTRIBUTING.md",)  # pages whose snippets no test runs
PAGES = ("README.md", "examples/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))

# A snippet, indented or not; `<!-- code: PATH NAME -->` above it names the source of its code.
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^<!-- code: (\S+) (\w+) -->\n(?:\n```python\n.*?^```$\n)?", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    """The text of a file, by its path from the root of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page. ``shown``: it is code of a file, inserted by `filled`."""

    page: str
    line: int
    language: str
    text: str
    shown: bool

    @property
    def name(self) -> str:
        """Its name: the words of its first line, up to a colon."""
        return re.split("[:(]", self.text.splitlines()[0])[0].strip("# ")


def snippets(*languages: str) -> Iterator[Snippet]:
    """The snippets of all pages in one of these languages (by default: in any)."""
    for page in PAGES:
        text = read(page)
        for found in _FENCE.finditer(text):
            if not languages or found[2] in languages:
                before = text[: found.start()]
                shown = bool(re.search(r"<!-- code: [^\n]+ -->\n\n$", before))
                yield Snippet(page, before.count("\n") + 1, found[2], textwrap.dedent(found[3]), shown)


def filled(text: str) -> str:
    """The page with all generated parts filled in."""
    text = _between(text, "policy", policy_table_markdown())
    text = _between(text, "settings", settings_table_markdown())
    text = _between(text, "peers", readme.table(results("peers"), results("ordinary")))
    text = _between(text, "tree", tree_markdown())
    return _CODE.sub(lambda at: f"<!-- code: {at[1]} {at[2]} -->\n\n```python\n{_source(at[1], at[2])}\n```\n", text)


def settings_table_markdown() -> str:
    """A table of the settings: variables, default, meaning."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for row in Settings.describe():
        names = " or ".join(f"`{name}`" for name in row.env)
        default = f"`{row.default}`" + (f" {row.unit}" if row.unit else "") if row.default else ""
        lines.append(f"| {names} | {default} | {row.meaning} |")
    return "\n".join(lines) + "\n"


def tree_markdown() -> str:
    """All packages, each with the first line of its docstring."""
    lines = []
    for package in sorted(path.parent for path in ROOT.glob("[a-z]*/**/__init__.py")):
        name = package.relative_to(ROOT)
        said = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
        lines.append(
            f"{'  ' * (len(name.parts) - 1) + name.name + '/':<22} {said.splitlines()[0] if said else ''}".rstrip()
        )
    return "\n```text\n" + "\n".join(lines) + "\n```\n\n"


def results(benchmark: str) -> dict[str, Any]:
    """What the last recorded run of a benchmark has measured."""
    found: dict[str, Any] = json.loads(read(f"benchmarks/results/{benchmark}.json"))
    return found


def _between(text: str, name: str, made: str) -> str:
    """The text with ``made`` between the markers of this name, if there are any."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    return re.sub(f"(?s){begin}.*?{end}", lambda _: begin + made + end, text)


def _source(path: str, name: str) -> str:
    """The source of a function of a file, with its decorators."""
    text = read(path)
    (node,) = (
        each
        for each in ast.parse(text).body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name == name
    )
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def run_program(argv: list[str], directory: Path, **environ: str) -> str:
    """The output of a program, which must succeed. ``environ``: its whole environment; if empty, it is inherited."""
    done = subprocess.run(
        argv, cwd=directory, env=environ or None, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    for name in (*PAGES, *GENERATED_ALSO):
        (ROOT / name).write_text(filled(read(name)), encoding="utf-8")
