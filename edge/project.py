"""``edge.toml``: what a project exports.

    target = "rpi"                  # optional: what --target is when it is left out

    [[model]]
    name = "tspulse"                # as on the command line: a family, a variant, or package.module:factory
    runtime = "onnx"                # everything from here on is optional
    scheme = "int8-dynamic"
    checkpoint = "weights/tspulse"
    config = "weights/config.json"
    part = "click"
    context = 2048
    calibration = "calibration.npz"
    tune_trials = 64
    sparse = "on"
    skip_up = "0.999"
    group_size = 32
    output = "bundles"              # ends in .edge: the bundle itself; otherwise the folder it goes into

Paths are relative to the folder that edge.toml lies in. ``find_project`` looks for it upward from the current folder,
``read_project`` reads it strictly: ConfigError for anything that is not in the list above.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.errors import ConfigError, UsageError
from edge.spec import parse_scheme

FILE = "edge.toml"


class _Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    runtime: str = "auto"
    scheme: str = "auto"
    checkpoint: str | None = None
    config: str | None = None
    part: str | None = None
    context: int | None = None
    calibration: str | None = None
    tune_trials: int = 0
    sparse: str = "auto"
    skip_up: str = "off"
    group_size: int = 32
    output: str | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: tuple[_Model, ...]
    target: str | None = None


class ModelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One export: what a ``[[model]]`` says, or what the command line does; all paths absolute."""

    name: str
    runtime: str = "auto"
    scheme: str = "auto"
    checkpoint: Path | None = None
    config: Path | None = None
    calibration: Path | None = None
    random_weights: int | None = None
    part: str | None = None
    context: int | None = None
    tune_trials: int = 0
    sparse: str = "auto"
    skip_up: str = "off"
    group_size: int = 32
    output: Path | None = None  # ends in .edge: the bundle; otherwise the folder that it goes into


@dataclass(frozen=True)
class Project:
    """An edge.toml: the folder it lies in, and what it exports."""

    folder: Path
    target: str | None
    models: tuple[ModelPlan, ...]


def find_project(start: Path) -> Path:
    """The nearest edge.toml in ``start`` or above; UsageError if there is none."""
    start = start.resolve()
    for folder in (start, *start.parents):
        path = folder / FILE
        if path.is_file():
            _check_owner(path, start)
            return path
    raise UsageError(f"there is no {FILE} in {start} or above: name a MODEL, or write one with `edge init`.")


def read_project(path: Path) -> Project:
    """What the edge.toml at ``path`` says; ConfigError if it does not follow the schema."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML ({error}): correct it.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        known = ", ".join(_Model.__struct_fields__)
        raise ConfigError(f"{path} is wrong: {error}; a [[model]] has {known}.") from error
    if not file.model:
        raise ConfigError(f"{path} lists no model: add a [[model]] with a name.")
    folder = path.resolve().parent
    return Project(folder, file.target, tuple(_plan(model, folder, path) for model in file.model))


def bundle_path(model: str, target: str, output: Path | None, part: str | None = None) -> Path:
    """Where a bundle goes: ``output`` itself if it ends in .edge, else MODEL[-PART]-TARGET.edge in it (or in this folder).

    A user's own ``package.module:factory`` gives its factory's name.
    """
    if output is not None and output.suffix == ".edge":
        return output
    name = model.rpartition(":")[2]
    return (output or Path()) / (f"{name}-{target}.edge" if part is None else f"{name}-{part}-{target}.edge")


def refuse_collisions(plans: tuple[ModelPlan, ...], target: str) -> None:
    """UsageError if two exports would write the same bundle."""
    seen: dict[Path, str] = {}
    for plan in plans:
        path = bundle_path(plan.name, target, plan.output, plan.part).resolve()
        if path in seen:
            raise UsageError(
                f"both '{seen[path]}' and '{plan.name}' would be written to {path.name}: change an output."
            )
        seen[path] = plan.name


def _plan(model: _Model, folder: Path, source: Path) -> ModelPlan:
    def path(value: str | None, key: str) -> Path | None:
        if value is None:
            return None
        if not value or "\0" in value:
            raise ConfigError(f"{source} has an empty path for {key} of '{model.name}': correct it or leave it out.")
        return folder / Path(value).expanduser()

    if not model.name:
        raise ConfigError(f"{source} has a [[model]] without a name: give it one (see `edge models`).")
    if model.scheme != "auto":
        parse_scheme(model.scheme)
    if model.tune_trials < 0 or model.group_size < 1 or (model.context is not None and model.context < 1):
        raise ConfigError(f"{source} has a negative figure for '{model.name}': correct tune_trials, group_size or context.")
    return ModelPlan(
        name=model.name,
        runtime=model.runtime,
        scheme=model.scheme,
        checkpoint=path(model.checkpoint, "checkpoint"),
        config=path(model.config, "config"),
        part=model.part,
        context=model.context,
        calibration=path(model.calibration, "calibration"),
        tune_trials=model.tune_trials,
        sparse=model.sparse,
        skip_up=model.skip_up,
        group_size=model.group_size,
        output=path(model.output, "output"),
    )


def _check_owner(path: Path, start: Path) -> None:
    """Refuse another user's edge.toml that lies above (in /tmp, say): it can name Python code to import."""
    if path.parent != start and path.stat().st_uid not in (os.getuid(), 0):
        raise UsageError(f"{path} belongs to another user: change into {path.parent} to use it all the same.")
