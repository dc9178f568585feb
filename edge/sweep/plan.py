"""``sweep.toml``: what to try.

    models = ["tspulse", "relu2-mlp"]       # exported for each of the next three
    runtimes = ["onnx", "executorch"]       # these three are optional: the targets' own
    schemes = ["fp32", "int8"]
    targets = ["cpu"]
    bundles = ["mine.edge"]                 # bundles that are there already; models or bundles, or both
    devices = ["local", "ssh://pi@pi5"]     # where each bundle is measured; optional: this machine
    threads = 2                             # optional: as many as `edge profile` takes
    runs = 50
    seconds = 1.0

Paths are relative to the file's folder. A cell is one combination; its ID is a hash of all that decides what it means,
so a sweep that is changed keeps the cells that are the same. Raises ConfigError for anything else in the file.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import tomllib
from pathlib import Path

import msgspec

from edge.bundle import MANIFEST, sha256_file
from edge.devices.base import find_device
from edge.devices.targets import load_target
from edge.errors import ConfigError, EdgeError
from edge.families.base import find
from edge.runtimes.base import runtime_names
from edge.spec import parse_scheme

#: The target that is this machine.
HOST = "cpu"


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    models: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ("auto",)
    schemes: tuple[str, ...] = ("auto",)
    targets: tuple[str, ...] = ("cpu",)
    bundles: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("local",)
    threads: int | None = None
    runs: int = 50
    seconds: float = 1.0


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One combination: ``bundle`` is there already (an absolute path), or ``model`` is exported with the rest.

    ``runtime`` and ``scheme`` are never "auto" for a model; for a bundle they are "".
    """

    device: str
    runs: int
    seconds: float
    threads: int | None
    model: str = ""
    runtime: str = ""
    scheme: str = ""
    target: str = ""
    target_sha256: str = ""  # of what its profile says; not of this machine, which says what it is
    bundle: str = ""
    bundle_sha256: str = ""  # of its manifest

    @property
    def id(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people: "tspulse onnx int8 for rpi5 on local"."""
        what = Path(self.bundle).name if self.bundle else f"{self.model} {self.runtime} {self.scheme} for {self.target}"
        return f"{what} on {self.device}"

    @property
    def export_name(self) -> str:
        """The folder of its bundle, the same for every device; a user's module and a profile's path become plain names."""
        plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in self._parts)
        return f"{plain}.edge"

    @property
    def _parts(self) -> str:
        key = "|".join((self.model, self.runtime, self.scheme, self.target, self.target_sha256))
        stem = f"{self.model.split(':')[-1]}-{self.runtime}-{self.scheme}-{Path(self.target).stem}"
        return f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    folder: Path  # that the file lies in: models of the user's own are looked up there
    cells: tuple[Cell, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.device for cell in self.cells))


def read_plan(path: Path) -> Plan:
    """The cells of ``path``, in its order; every name in it exists. Raises ConfigError."""
    try:
        file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML ({error}): correct it.") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} does not describe a sweep ({error}): see `edge sweep --help`.") from error
    folder = path.resolve().parent
    try:
        cells = [*_exported(file, folder), *_given(file, folder)]
    except ConfigError:
        raise
    except EdgeError as error:
        raise ConfigError(f"{path} is wrong: {error}") from error
    if not cells:
        raise ConfigError(f"{path} has nothing to try: list models, or bundles.")
    if file.runs < 1 or not 0 <= file.seconds < math.inf or (file.threads is not None and file.threads < 1):
        raise ConfigError(f"{path} needs at least 1 run, 1 thread and no negative time.")
    return Plan(folder=folder, cells=tuple(dict.fromkeys(cells)))


def _exported(file: _File, folder: Path) -> list[Cell]:
    found = []
    for model, target, runtime, scheme in itertools.product(file.models, file.targets, file.runtimes, file.schemes):
        # A profile of the sweep's own is given relative to it.
        profile = str(folder / target) if target.endswith(".toml") else target
        resolved = load_target(profile)
        digest = "" if resolved.name == HOST else hashlib.sha256(msgspec.json.encode(resolved)).hexdigest()
        find(model)
        runtime = resolved.runtime if runtime == "auto" else runtime
        if runtime not in runtime_names():
            raise ConfigError(f"there is no runtime '{runtime}': choose from {', '.join(runtime_names())}.")
        scheme = resolved.scheme.value if scheme == "auto" else parse_scheme(scheme).value
        found += [
            _cell(file, device, model=model, runtime=runtime, scheme=scheme, target=profile, target_sha256=digest)
            for device in _devices(file)
        ]
    return found


def _given(file: _File, folder: Path) -> list[Cell]:
    found = []
    for name in file.bundles:
        bundle = (folder / name).resolve()
        if not (bundle / MANIFEST).is_file():
            raise ConfigError(f"there is no bundle at {bundle}: correct bundles.")
        digest = sha256_file(bundle / MANIFEST)
        found += [_cell(file, device, bundle=str(bundle), bundle_sha256=digest) for device in _devices(file)]
    return found


def _devices(file: _File) -> tuple[str, ...]:
    for device in file.devices:
        find_device(device)
    return file.devices


def _cell(
    file: _File, device: str, *, model: str = "", runtime: str = "", scheme: str = "", target: str = "",
    target_sha256: str = "", bundle: str = "", bundle_sha256: str = "",
) -> Cell:
    return Cell(
        device=device, runs=file.runs, seconds=file.seconds, threads=file.threads, model=model, runtime=runtime,
        scheme=scheme, target=target, target_sha256=target_sha256, bundle=bundle, bundle_sha256=bundle_sha256,
    )
