"""The house itself: what the documents say is what the tree holds, and nothing in it speaks of one machine.

``./dev generate`` writes what is made from the code.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from settings import Settings
from tests.support.pages import GENERATED_ALSO, PAGES, ROOT, filled, read, snippets, tree_markdown


def kept_files() -> Iterator[Path]:
    """Every text that belongs to the repository (what git would keep), this file excepted."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            yield path


def anchors(markdown: str) -> set[str]:
    """What a link may name of a page."""
    headings = re.findall(r"^##+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestThePages:
    @pytest.mark.parametrize("page", [*PAGES, *GENERATED_ALSO])
    def test_have_what_is_made_from_the_code(self, page: str) -> None:
        assert read(page) == filled(read(page)), "./dev generate"

    def test_have_the_tables_of_the_policy_and_of_the_settings(self) -> None:
        assert "`exchange_throttled`" in read("README.md")
        assert "| `SENDQ_POLL_S` |" in read("docs/operations.md")

    @pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
    def test_name_commands_that_exist(self, page: str) -> None:
        usage = subprocess.run(["bash", "dev"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        known = set(re.findall(r"^  ([\w-]+) ", usage, re.MULTILINE))
        assert set(re.findall(r"\./dev ([\w-]+)", read(page))) <= known

    @pytest.mark.parametrize("page", PAGES)
    def test_name_commands_of_the_command_line_that_exist(self, page: str) -> None:
        from worker.cli.main import sendq

        named = set(re.findall(r"(?:\./dev |`)sendq (\w+)", read(page)))
        assert named <= sendq.commands.keys()

    @pytest.mark.parametrize("page", PAGES)
    def test_name_settings_that_exist(self, page: str) -> None:
        known = {name for row in Settings.describe() for name in row.env}
        assert set(re.findall(r"\bSENDQ_\w+[A-Z]\b", read(page))) <= known

    @pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
    def test_link_to_what_is_there(self, page: str) -> None:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", read(page)):
            name, _, anchor = target.partition("#")
            there = (ROOT / page).parent / name if name else ROOT / page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target

    def test_say_of_each_snippet_what_it_is(self) -> None:
        known = {"python", "sh", "toml", "ini", "yaml", "text"}
        assert [(one.page, one.line) for one in snippets() if one.language not in known] == []

    def test_are_of_a_length_that_is_read(self) -> None:
        assert len(read("README.md").splitlines()) <= 350

    def test_list_changes_in_short_sections(self) -> None:
        sections = re.split(r"^#{2,3} ", read("CHANGELOG.md"), flags=re.MULTILINE)[1:]
        lengths = {one.splitlines()[0]: len([line for line in one.splitlines()[1:] if line]) for one in sections}
        assert len(lengths) > 5
        assert [name for name, length in lengths.items() if length > 12] == []


class TestTheTree:
    def test_names_what_every_folder_is_for(self) -> None:
        lines = tree_markdown().strip().splitlines()[1:-1]
        assert len(lines) > 30
        assert [line for line in lines if len(line.split(maxsplit=1)) < 2] == []


class TestThePathOfAJob:
    """CONTRIBUTING lists the files that a send passes, step by step."""

    def steps(self) -> list[list[Path]]:
        listed = re.findall(r"(?s)<!-- path: begin -->(.*)<!-- path: end -->", read("CONTRIBUTING.md"))[0]
        return [
            [Path(name) for name in re.findall(r"^   - `([^`]+)`: ", step, re.M)] for step in listed.split("**")[2::2]
        ]

    def test_names_files_that_exist_each_once(self) -> None:
        files = [file for step in self.steps() for file in step]
        assert [str(file) for file in files if not (ROOT / file).is_file()] == []
        assert len(files) == len(set(files))

    def test_is_short_enough_to_be_read(self) -> None:
        assert [len(step) for step in self.steps()] != []
        assert sum(len(step) for step in self.steps()) < 33

    def test_enters_no_folder_twice_within_a_step(self) -> None:
        for step in self.steps():
            folders = [folder for folder, _ in itertools.groupby(file.parent for file in step)]
            assert len(folders) == len(set(folders)), folders


class TestDev:
    def test_without_a_command_lists_what_there_is(self) -> None:
        done = subprocess.run(["bash", "dev"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        commands = set(re.findall(r"^  ([\w|-]+)\)", read("dev"), re.MULTILINE)) - {"help|-h|--help"}
        assert commands == set(re.findall(r"^  ([\w-]+) ", done.stdout, re.MULTILINE))

    def test_names_files_of_tests_that_are_there(self) -> None:
        named = re.findall(r"\btests/[\w/{},.]+", read("dev"))
        listed = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {' '.join(named)}"], capture_output=True, text=True, check=True
        )
        assert len(listed.stdout.split()) > 5
        assert [path for path in listed.stdout.split() if not (ROOT / path).exists()] == []

    def test_refuses_a_command_that_it_does_not_know(self) -> None:
        done = subprocess.run(["bash", "dev", "frobnicate"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no command 'frobnicate'" in done.stderr

    @pytest.mark.parametrize("script", ["dev", ".ci/run"])
    def test_is_sound_shell(self, script: str) -> None:
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
        shellcheck = shutil.which("shellcheck", path=sysconfig.get_path("scripts"))
        if shellcheck is None:
            pytest.skip("shellcheck comes as a wheel for some platforms alone")
        done = subprocess.run(
            [shellcheck, "--severity=warning", script], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.stdout == ""

    def test_is_what_ci_runs_with_the_readmes_test_command(self) -> None:
        assert "./dev test     #" in read("README.md")
        assert re.findall(r"^\./dev .+$", read(".ci/run"), re.MULTILINE) == [
            "./dev lint || status=$?",
            "./dev test || status=$?",
            "./dev unit-other -q || status=$?",
            './dev test-all -m "long or hypothesis" || status=$?',
        ]


class TestWhatIsKept:
    def test_names_no_path_of_one_machine(self) -> None:
        found = re.compile(r"(?<![\w.])/(?:work|root|Users|home(?!/me/))/\w")  # /home/me is nobody's
        assert [path.name for path in kept_files() if found.search(path.read_text("utf-8", "replace"))] == []

    @pytest.mark.parametrize("name", ["worker", "run", "dev", "build", "plots", "browser", "uv"])
    def test_pins_by_hash_and_names_no_index(self, name: str) -> None:
        text = read(f"requirements/{name}.txt")
        assert not re.search(r"https?://|--(?:extra-)?index-url|--find-links|file:", text)
        pins = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
        assert pins
        assert [pin.split()[0] for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []

    def test_declares_no_index_either(self) -> None:
        declared = tomllib.loads(read("pyproject.toml"))
        assert "index" not in declared.get("tool", {}).get("uv", {})

    def test_has_one_version(self) -> None:
        import sendq
        import sendq_worker

        projects = [tomllib.loads(read(name))["project"] for name in ("pyproject.toml", "wheels/worker/pyproject.toml")]
        assert {sendq.__version__, sendq_worker.__version__, *(one["version"] for one in projects)} == {"0.1.0"}
        (pinned,) = [one for one in projects[1]["dependencies"] if one.startswith("sendq[")]
        assert pinned.partition("]")[2] == "==0.1.0"

    def test_keeps_no_secret_of_the_compose_file(self) -> None:
        assert not re.search(r"^\w*(?:PASSWORD|KEY)=.", read(".env.example"), re.MULTILINE)
