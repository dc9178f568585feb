"""The command line's own manners: help, usage errors, JSON, tracebacks, pipes; and what doctor finds."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edge import cli
from edge.cli.app import app
from edge.doctor import EXTRAS, Status, allows, examine, read_requirements, required_by, works
from edge.errors import EdgeError

COMMANDS = [
    "models", "targets", "devices", "doctor", "init", "export", "verify", "run", "eval", "annotate", "profile", "tune", "compare",
    "estimate", "results", "gate", "sweep", "build-runner", "convert",
]  # fmt: skip
#: Commands with commands of their own, listed last.
GROUPS = ["device"]
PROGRAM = [sys.executable, "-c", "from edge.cli import main; main()"]


def edge(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real program, in a process of its own."""
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=120
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that ``arguments`` are refused with, exit status 2."""
    assert cli.invoke(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith("edge: ")
    return last


def test_help_answers_at_once() -> None:
    # Processor time rather than wall time, which depends on what else the machine is doing: it is the same when idle.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert edge("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from edge.cli import invoke; invoke(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert not loaded & {"numpy", "torch", "tvm", "onnx", "onnxruntime", "executorch", "matplotlib", "jinja2", "rich"}


def test_help_lists_every_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke([]) == 0
    text = capsys.readouterr().out
    listed = [
        line.split()[0] for line in text.split("Commands:")[1].split("First steps:")[0].splitlines() if line.strip()
    ]
    assert listed == [*COMMANDS, *GROUPS]
    assert "..." not in text.split("Commands:")[1]


@pytest.mark.parametrize("command", [*COMMANDS, *GROUPS])
def test_every_commands_help_has_examples_in_lines_of_their_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke([command, "--help"]) == 0
    text = capsys.readouterr().out
    examples = text.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert examples
    assert all(line.startswith("    ") and "edge " in line for line in examples)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import edge as package

    assert cli.invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"edge {package.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["exprot"], "No such command 'exprot'. Did you mean 'export'?"),
        (["models", "--jsn"], "No such option"),
        (["verify"], "Missing argument 'BUNDLE'"),
        (["profile", "x.edge", "--runs", "many"], "'--runs'"),
        (["profile", "x.edge", "--runs", "0"], "'--runs'"),
        (["export", "tspulse"], "Give --target: android, cpu, pixel-4a"),
        (["export", "tspulse", "--target", "rpy"], "did you mean rpi?"),
        (["export", "tspulse", "--target", "./none.toml"], "no target profile at ./none.toml"),
        (["export", "gpt5", "--target", "rpi"], "there is no model 'gpt5': choose one of "),
        (
            ["export", "tspulse", "--target", "rpi", "--runtime", "tflite"],
            "no runtime 'tflite': choose one of executorch",
        ),
        (["export", "tspulse", "--target", "rpi", "--quantize", "int3"], "no scheme 'int3': choose one of fp32"),
        (["export", "tspulse", "--target", "rpi", "--group-size", "0"], "'--group-size'"),
        (["verify", "gone.edge"], "there is no bundle at gone.edge"),
        (["verify", ".", "--device", "toaster"], "no device 'toaster'"),
        (["run", "gone.edge", "--task", "anomaly"], "there is no bundle at gone.edge"),
        (["run", "gone.edge", "--npz", "in.npz", "--task", "anomaly"], "give one of them"),
        (["run", "gone.edge", "--entry", "reconstruct"], "--entry names the entry point for --npz"),
        (["profile", "gone.edge"], "there is no bundle at gone.edge"),
        (["compare", "gone.edge", "gone.json"], "gone.edge"),
    ],
)
def test_usage_errors_are_one_sentence(
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_program_exits_as_the_function_returns(tmp_path: Path) -> None:
    done = edge("verify", "gone.edge", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "edge: there is no bundle at gone.edge: check the path, or make one with `edge export`.\n"


def test_a_traceback_only_when_asked_for(tmp_path: Path) -> None:
    done = edge("verify", "gone.edge", cwd=tmp_path, EDGE_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("edge: there is no bundle")


def test_the_unforeseen_is_one_sentence_that_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real fault of the surroundings that no command foresees: the current folder is gone.
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    sentence = refused(capsys, "export", "--target", "cpu")
    assert "FileNotFoundError" in sentence
    assert "EDGE_DEBUG=1" in sentence


def test_a_reader_that_leaves_is_no_error() -> None:
    # As `edge targets --json | head -1` does: the pipe is closed before anything is written.
    process = subprocess.Popen(
        [*PROGRAM, "targets", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert errors == ""


@pytest.mark.parametrize("command", ["models", "targets", "devices", "doctor"])
def test_json_is_all_there_is_on_stdout(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke([command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all("name" in row for row in rows)


@pytest.mark.parametrize("command", ["models", "targets", "devices", "doctor"])
def test_tables_have_no_colour_in_a_pipe(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke([command]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_init_does_not_overwrite(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.invoke(["init"]) == 0
    assert "wrote edge.toml" in capsys.readouterr().out
    (tmp_path / "edge.toml").write_text("mine")
    assert "--force" in refused(capsys, "init")
    assert (tmp_path / "edge.toml").read_text() == "mine"
    assert cli.invoke(["init", "--force"]) == 0
    assert "[[model]]" in (tmp_path / "edge.toml").read_text()


def test_every_command_is_registered_once() -> None:
    assert [command.name for command in app.registered_commands] == COMMANDS


def test_doctor_sees_what_is_installed() -> None:
    checks = examine()
    assert works(checks)
    torch = next(check for check in checks if check.name == "torch")
    assert (torch.status, torch.needed, torch.next_step) == (Status.OK, "==2.13.0", "")
    assert next(check for check in checks if check.name == "cache").found


def test_doctor_names_the_next_step_for_a_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An older runtime and no TVM at all, as a folder of package metadata says it.
    for name, version in (("onnxruntime", "1.20.0"), ("torch", "2.13.0+cpu")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    real = next(path for path in sys.path if list(Path(path).glob("edge-*.dist-info")))
    (tmp_path / "edge.dist-info").symlink_to(next(Path(real).glob("edge-*.dist-info")))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = {check.name: check for check in examine()}
    assert found["torch"].status is Status.OK
    assert found["onnxruntime"].status is Status.WRONG
    assert found["onnxruntime"].next_step == "run `pip install 'onnxruntime<1.33,>=1.32'`"
    assert found["apache-tvm"].status is Status.MISSING
    assert found["apache-tvm"].next_step == "run `pip install 'edge[tvm]'`"
    assert not works(found.values())  # typer itself is not there


def test_requirements_are_read_from_metadata() -> None:
    found = read_requirements(
        [
            "numpy>=2.0",
            'torch==2.13.0; extra == "executorch"',
            'onnxruntime<1.33,>=1.32; extra == "onnx"',
            'edge[executorch,onnx]; extra == "export"',
            'Pillow>=12; extra == "export"',
        ]
    )
    assert [(item.name, item.versions, item.extra) for item in found[:3]] == [
        ("numpy", ">=2.0", None),
        ("torch", "==2.13.0", "executorch"),
        ("onnxruntime", "<1.33,>=1.32", "onnx"),
    ]
    assert found[3].brings == ("executorch", "onnx")
    assert [item.name for item in required_by("export", found)] == ["Pillow"]


def test_every_extra_of_a_user_is_looked_at() -> None:
    known = {requirement.extra for requirement in read_requirements(metadata.requires("edge") or [])} - {None}
    # What a board needs is asked of the board; the last two are for those who work on edge.
    assert set(EXTRAS) == known - {"device-onnx", "train", "dev"}


@pytest.mark.parametrize(
    ("versions", "installed", "fits"),
    [
        ("", "1", True),
        ("==2.13.0", "2.13.0+cpu", True),
        ("==2.13.0", "2.13", True),
        ("==2.13.0", "2.13.1", False),
        ("==0.27.0.post1", "0.27.0.post1", True),
        ("==0.27.0.post1", "0.27.0", False),
        (">=1.32,<1.33", "1.32.4", True),
        (">=1.32,<1.33", "1.33.0", False),
        (">=1.32,<1.33", "1.9", False),
        (">=2.0", "2.0rc1", False),
        ("!=1.5", "1.5.0", False),
    ],
)
def test_versions_are_compared_by_number(versions: str, installed: str, fits: bool) -> None:
    assert allows(versions, installed) is fits


def test_every_error_of_the_tree_exits_with_2() -> None:
    pending, seen = [EdgeError], set()
    while pending:
        kind = pending.pop()
        seen.add(kind.__name__)
        assert kind.exit_status == 2
        pending += kind.__subclasses__()
    assert {"UsageError", "BundleError", "StorageError"} <= seen
