"""Reading a checkpoint without trusting it: tensors by name, and the SHA-256 of what they came from.

In: a file (``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` through torch's ``weights_only`` reader, which runs no
code), or a folder with one such file, or with shards that a ``*.index.json`` lists. Out: `Checkpoint`. Everything
that is missing, truncated, unsafe or of the wrong shape is a `CheckpointError` that names the file and the next step.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edge.errors import CheckpointError, ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import torch
    from torch import nn

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
#: Keys under which training scripts commonly nest the weights.
NESTED = ("state_dict", "model_state_dict", "model")

StructT = TypeVar("StructT", bound=msgspec.Struct)
ModuleT = TypeVar("ModuleT", bound="nn.Module")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name (half precision widened to float32), and where they came from.

    ``sha256`` is the hash of the one file, or of the sorted "hash  name" lines of several. ``config`` is the
    config.json beside the weights, if there is one.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    sha256: str
    config: Path | None


def demo_folder(name: str) -> Path:
    """The folder of the demo checkpoint ``name``, which ships with the package."""
    return Path(__file__).parent / "demo" / name


def read(path: Path, lazy: bool = False) -> Checkpoint:
    """The checkpoint at ``path``, a file or a folder; CheckpointError says what is wrong with it.

    ``lazy``: each tensor of a .safetensors file is read whenever it is asked for, and none is kept.
    """
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}: check the path.")
    files = _weight_files(path) if path.is_dir() else [path]
    config = (path if path.is_dir() else path.parent) / "config.json"
    if lazy and all(file.suffix == ".safetensors" for file in files):
        return Checkpoint(path, _LazyTensors(files), _digest(files), config if config.is_file() else None)
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in _read_file(file).items():
            if name in tensors:
                raise CheckpointError(f"{file} holds '{name}', which another shard holds too: download it again.")
            tensors[name] = _checked(file, name, tensor)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: pass the file that the training wrote.")
    return Checkpoint(path, tensors, _digest(files), config if config.is_file() else None)


def fill(module: ModuleT, checkpoint: Checkpoint) -> ModuleT:
    """Load ``checkpoint`` into ``module``; every tensor must be there, with its shape, and none may be left over."""
    own = module.state_dict()
    check_names(checkpoint.path, own.keys(), checkpoint.tensors.keys())
    for name, tensor in own.items():
        found = checkpoint.tensors[name]
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"tensor '{name}' of {checkpoint.path} has shape {list(found.shape)} but the config asks for "
                f"{list(tensor.shape)}: pass the config.json that belongs to it."
            )
    module.load_state_dict(dict(checkpoint.tensors), strict=True)
    return module


def check_names(path: Path, wanted: Set[str], found: Set[str]) -> None:
    """CheckpointError if the tensors that the checkpoint at ``path`` has are not those that its config asks for."""
    if missing := sorted(wanted - found):
        raise CheckpointError(
            f"{path} lacks {_listed(missing)}, which the config asks for: pass the config.json that belongs to it."
        )
    if extra := sorted(found - wanted):
        raise CheckpointError(
            f"{path} has {_listed(extra)} that the config does not know: pass the config.json that belongs to it."
        )


def seeded(seed: int, build: Callable[[], ModuleT]) -> ModuleT:
    """What ``build`` makes when torch's random numbers start from ``seed``; the caller's own are left as they were."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def read_config(path: Path, kind: type[StructT]) -> StructT:
    """The config file at ``path`` as ``kind``; ConfigError for an unknown field, a wrong type or a refused value."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"the config {path} cannot be read ({error.strerror}): check the path.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config {path} is refused: {error}.") from error


def _weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold its weights: the shards of an index, or the one that is there."""
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) == 1:
        return _shards(indexes[0])
    found = sorted(folder.glob("*.safetensors")) or sorted(
        file for file in folder.iterdir() if file.suffix in TORCH_SUFFIXES
    )
    if not found:
        raise CheckpointError(f"{folder} has no *.safetensors: pass the folder or the file that holds the weights.")
    preferred = [file for file in found if file.name == "model.safetensors"]
    if len(found) > 1 and not preferred:
        names = ", ".join(file.name for file in found)
        raise CheckpointError(f"{folder} has several weight files ({names}) and no index.json: pass the one you mean.")
    return preferred or found


def _shards(index: Path) -> list[Path]:
    try:
        names = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{index} is not an index of weight files ({error}): download it again.") from error
    files = []
    for name in sorted(set(names)):
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise CheckpointError(f"{index} names '{name}', which is not a file beside it: do not use this checkpoint.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent} lacks '{name}', which its index lists: download it again.")
        files.append(index.parent / name)
    return files


class _LazyTensors(Mapping[str, "torch.Tensor"]):
    """The tensors of .safetensors files, read one at a time; CheckpointError as for a whole file."""

    def __init__(self, files: list[Path]) -> None:
        self._files: dict[str, Path] = {}
        for file in files:
            with _safetensors(file) as stored:
                for name in stored.keys():  # noqa: SIM118  # not a mapping
                    if name in self._files:
                        raise CheckpointError(f"{file} holds '{name}', which another shard holds too: download it again.")
                    self._files[name] = file

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._files[name]
        with _safetensors(file) as stored:
            return _checked(file, name, stored.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _read_file(file: Path) -> Mapping[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if file.suffix in TORCH_SUFFIXES:
        return _read_torch(file)
    raise CheckpointError(f"{file} is not a checkpoint that edge reads: pass a .safetensors, .pt, .pth or .bin file.")


def _read_safetensors(file: Path) -> Mapping[str, torch.Tensor]:
    with _safetensors(file) as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a mapping


@contextlib.contextmanager
def _safetensors(file: Path) -> Iterator[Any]:
    """The file, open (safetensors' ``safe_open``); CheckpointError if it is not whole."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingDependencyError(str(error.name), "export", "reading a checkpoint") from error
    try:
        with safe_open(file, "pt") as stored:
            yield stored
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{file} is not a whole safetensors file ({reason}): download it again.") from error


def _read_torch(file: Path) -> Mapping[str, torch.Tensor]:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            # Torch remarks on pickles that it did not write; what it cannot take safely it refuses, which counts.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds pickled objects or is damaged, and unpickling it could run code: "
            "save the model's state_dict as .safetensors instead."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file} cannot be read ({reason}): download or write it again.") from error
    for key in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file} is not a state_dict (tensors by name): save model.state_dict() and pass that.")
    return loaded


def _checked(file: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"tensor '{name}' of {file} holds NaN or infinity, so the training diverged or the file is damaged: "
            "pass a sound checkpoint."
        )
    return tensor


def _digest(files: list[Path]) -> str:
    from edge.bundle import sha256_file

    hashes = [(sha256_file(file), file.name) for file in files]
    if len(hashes) == 1:
        return hashes[0][0]
    return hashlib.sha256("".join(f"{value}  {name}\n" for value, name in hashes).encode()).hexdigest()


def _listed(names: list[str]) -> str:
    """The tensor 'a', or 5 tensors ('a', 'b', ...)."""
    shown = ", ".join(f"'{name}'" for name in names[:2])
    if len(names) == 1:
        return f"the tensor {shown}"
    return f"{len(names)} tensors ({shown}{', ...' if len(names) > 2 else ''})"
