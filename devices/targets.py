"""Targets: what a device is, from ``profiles/NAME.toml`` or the user's own file.

``load_target("rpi")`` looks in the folder that ``EDGE_TARGETS`` names, then among the profiles that ship with edge;
``load_target("./board.toml")`` reads that file. A profile holds the fields of ``edge.spec.Target`` (its name is the
file's) and may say ``same_as = "rpi5"`` to start from another, or ``detect = "host"`` to start from this machine.
Raises UsageError for a target that does not exist and ConfigError for a profile that does not follow the schema.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from edge.devices.host import host_facts
from edge.errors import ConfigError, UsageError
from edge.spec import Target

PROFILES = Path(__file__).parent / "profiles"
#: A target's name ends up in bundle names, hence the narrow alphabet.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def load_target(name: str) -> Target:
    """The target called ``name``, or the one in the .toml file that ``name`` is the path of."""
    return _build(_find(name), seen=())


def target_names() -> list[str]:
    """Every target that can be named: those that ship with edge and those in the EDGE_TARGETS folder."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def _folders() -> Iterator[Path]:
    if own := os.environ.get("EDGE_TARGETS"):
        folder = Path(own).expanduser()
        if not folder.is_dir():
            raise UsageError(f"EDGE_TARGETS is {own}, which is not a folder: point it at your profiles, or unset it.")
        yield folder
    yield PROFILES


def _find(name: str) -> Path:
    if name.endswith(".toml") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no target profile at {name}: check the path.")
        return path
    for folder in _folders():
        path = folder / f"{name}.toml"
        if path.is_file() and _NAME.fullmatch(name):
            return path
    known = target_names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? There are" if near else "choose one of"
    raise UsageError(f"there is no target '{name}': {hint} {', '.join(known)}, or the path of a .toml profile.")


def _build(path: Path, seen: tuple[Path, ...]) -> Target:
    name = path.stem
    if not _NAME.fullmatch(name):
        raise ConfigError(f"the profile {path} names its target '{name}': use small letters, digits, dots and dashes.")
    if path.resolve() in seen:
        raise ConfigError(f"the profile {path} is the same as itself: break the chain of same_as.")
    fields = _read(path)
    base = _base(fields, path, (*seen, path.resolve()))
    sources = {**_sources(base), **_sources(fields)}
    try:
        target = msgspec.convert({**base, **fields, "sources": sources, "name": name}, Target)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"the profile {path} does not describe a target ({error}): see `edge targets --json` for one that does."
        ) from error
    _check(target, path)
    return target


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the profile {path} is not TOML ({error}): correct it.") from error
    except OSError as error:
        raise ConfigError(f"the profile {path} cannot be read ({error.strerror}): check its permissions.") from error


def _base(fields: dict[str, object], path: Path, seen: tuple[Path, ...]) -> dict[str, object]:
    """The fields to start from; takes ``same_as`` and ``detect`` out of ``fields``."""
    same_as, detect = fields.pop("same_as", None), fields.pop("detect", None)
    if same_as is not None and detect is not None:
        raise ConfigError(f"the profile {path} has both same_as and detect: keep one.")
    if isinstance(same_as, str):
        other = path.parent / same_as if same_as.endswith(".toml") else _find(same_as)
        if not other.is_file():
            raise ConfigError(f"the profile {path} is the same as {same_as}, which does not exist: correct same_as.")
        return msgspec.structs.asdict(_build(other, seen))
    if detect == "host":
        return _host()
    if same_as is not None or detect is not None:
        raise ConfigError(
            f'the profile {path} is wrong in same_as or detect: same_as is a target\'s name, detect is "host".'
        )
    return {}


def _host() -> dict[str, object]:
    facts = host_facts()
    return {
        "triple": facts.triple,
        "cpu": facts.cpu,
        "features": facts.features,
        "cores": facts.cores,
        "threads": facts.cores,
        "ram_mb": facts.ram_mb,
        "page_size": facts.page_size,
        "libc": facts.libc,
    }


def _sources(fields: Mapping[str, object]) -> dict[str, object]:
    found = fields.get("sources", {})
    return dict(found) if isinstance(found, Mapping) else {"sources": found}


def _check(target: Target, path: Path) -> None:
    for field in ("cores", "threads", "ram_mb", "page_size"):
        if (value := getattr(target, field)) < 1:
            raise ConfigError(f"the profile {path} has {field} = {value}: it must be at least 1.")
    for field in ("bandwidth_gbs", "peak_gflops", "cache_kb"):
        figure = getattr(target, field)
        if figure is not None and figure <= 0:
            raise ConfigError(f"the profile {path} has {field} = {figure}: it must be above 0, or left out.")
    if target.threads > target.cores:
        raise ConfigError(f"the profile {path} has {target.threads} threads on {target.cores} cores: lower threads.")
    if target.page_size & (target.page_size - 1):
        raise ConfigError(f"the profile {path} has page_size = {target.page_size}: it must be a power of two.")
