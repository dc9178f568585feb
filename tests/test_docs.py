"""The documents say what is so: the table of schemes, every command and flag, every link."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edge import cli
from edge.export.base import get_lowering
from edge.runtimes.base import runtime_names
from edge.spec import Scheme

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
RUNTIMES = {"ONNX Runtime": "onnx", "ExecuTorch (XNNPACK)": "executorch", "TVM": "tvm"}


def test_the_table_of_schemes_is_what_the_lowerings_do() -> None:
    section = (ROOT / "README.md").read_text().split("## Schemes by runtime\n")[1].split("\n\n")[0]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    said = {
        RUNTIMES[name]: {row[0].split(",")[0] for row in rows if row[column] == "yes"}
        for column, name in enumerate(header)
        if name
    }
    done = {name: {scheme.value for scheme in get_lowering(name).schemes} for name in runtime_names()}
    assert done.pop("static") == done["tvm"]  # the same compiler, so no column of its own
    assert said == done
    assert [row[0].split(",")[0] for row in rows] == [scheme.value for scheme in Scheme]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_flag_exists(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    helps: dict[str, str] = {}
    for line in (ROOT / document).read_text().splitlines():
        if not line.startswith("    edge "):
            continue
        words = shlex.split(line, comments=True)
        if len(words) < 2 or words[1].endswith("/"):  # "edge/  cli/ ...": the layout, no command
            continue
        command = words[1]
        if command not in helps:
            assert cli.invoke([command, "--help"]) == 0
            helps[command] = capsys.readouterr().out
        for flag in (word for word in words[2:] if word.startswith("-")):
            assert re.search(rf"{flag}\b", helps[command]), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text()):
        assert ((ROOT / document).parent / target).exists(), target


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"^    make (\w+)", (ROOT / document).read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
