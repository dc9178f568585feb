"""The package as it ships: what is in it, and that its base works where nothing else is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import edge

ROOT = Path(__file__).parent.parent
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
#: Folders at the top that are packages of edge, by the package's name.
FOLDERS = SETUP["package-dir"]


def test_the_public_surface_is_this() -> None:
    assert sorted(edge.__all__) == ["EdgeError", "__version__", "export", "load", "profile", "verify"]
    for name in edge.__all__:
        assert getattr(edge, name) is not None
    assert callable(edge.export)


def test_every_folder_with_code_is_packaged() -> None:
    """A sub-package that pyproject.toml does not list works in a clone and is missing from the wheel."""
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inside)))
    assert found == set(SETUP["packages"])


def test_every_data_file_is_packaged() -> None:
    """Anything beside the code matches a pattern of package-data."""
    matched = set()
    for package, patterns in SETUP["package-data"].items():
        outer = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
        folder = ROOT / FOLDERS[outer] / package.removeprefix(outer).replace(".", "/").lstrip("/")
        matched |= {path for pattern in patterns for path in folder.glob(pattern)}
    beside = {
        path
        for folder in FOLDERS.values()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert beside <= matched


def test_what_ships_is_small() -> None:
    demo = sum(path.stat().st_size for path in (ROOT / "edge" / "demo").rglob("*") if path.is_file())
    assert demo <= 25e6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that the build leaves nothing in it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``edge`` program in an environment with the base dependencies only."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
    return folder / "bin" / "edge"


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run([program, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


@pytest.mark.slow
def test_the_wheel_holds_one_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"edge", f"edge-{edge.__version__}.dist-info"}
    for needed in (
        "edge/py.typed",
        "edge/devices/profiles/rpi.toml",
        "edge/export/pipeline.py",
        "edge/runtimes/onnx.py",
        "edge/runtimes/kernels/edge_kernels.h",
        "edge/runtimes/kernels/lib/x86_64/libedge_kernels.so",
        "edge/runtimes/kernels/lib/aarch64/libedge_kernels.so",
    ):
        assert needed in names
    assert any(name.startswith("edge/demo/tspulse/") and name.endswith(".safetensors") for name in names)


@pytest.mark.slow
def test_the_base_works_alone(bare: Path, tmp_path: Path, digits_bundle: Path) -> None:
    models = run(bare, "models", "--json", cwd=tmp_path)
    assert models.returncode == 0, models.stderr
    assert [row["name"] for row in json.loads(models.stdout)] == ["fmvit", "interformer", "plm", "relu2-mlp", "tspulse"]
    for command in ("targets", "devices", "--help"):
        assert run(bare, command, cwd=tmp_path).returncode == 0
    doctor = run(bare, "doctor", cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stderr
    assert "pip install 'edge[onnx]'" in doctor.stdout

    export = run(bare, "export", "relu2-mlp", "--target", "rpi", cwd=tmp_path)
    assert export.returncode == 2
    assert export.stderr.splitlines()[-1].startswith("edge: ")
    assert "run `pip install 'edge[export]'`" in export.stderr
    assert "Traceback" not in export.stderr
    verify = run(bare, "verify", str(digits_bundle), cwd=tmp_path)
    assert verify.returncode == 2
    assert "pip install 'edge[onnx]'" in verify.stderr
    assert list(tmp_path.iterdir()) == []
