"""A user's own model: ``package.module:factory``.

``factory()`` returns an ``nn.Module`` that says its example inputs::

    class MyModel(nn.Module):
        example_inputs = (torch.zeros(1, 16),)         # one sample, or a list of samples
        input_names = ("features",)                    # optional; the forward's parameter names otherwise
        output_names = ("logits",)                     # optional; output0, output1, ... otherwise
        dynamic_dims = {"features": {0: "batch"}}      # optional

A sample is a tuple of tensors or a dict by input name. Any of these may be a method without arguments. The module is
looked up with the current folder on the path.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edge.checkpoints import fill, read, seeded
from edge.errors import InputError, UsageError
from edge.families.base import Arrays, EntryPoint, Model, ModelFamily, Source
from edge.spec import DTYPES, DynamicDim, TensorSpec

if TYPE_CHECKING:
    from torch import nn


class UserFamily(ModelFamily):
    name = "user"
    summary = "your own nn.Module: package.module:factory"
    has_demo: ClassVar[bool] = False

    def load(self, name: str, variant: str | None, source: Source) -> Model:
        if source.config is not None:
            raise UsageError(f"'{name}' is your own module and takes no --config: build it in the factory.")
        # A module whose own weights are random is at least the same each time.
        module = seeded(source.random_seed or 0, lambda: build(name))
        sha256 = None
        if source.checkpoint is not None:
            checkpoint = read(source.checkpoint)
            fill(module, checkpoint)
            sha256 = checkpoint.sha256
        return Model(
            name=name,
            family=self.name,
            config={},
            entries=(entry_point(module, name),),
            checkpoint_sha256=sha256,
            random_seed=source.random_seed,
        )


def build(name: str) -> nn.Module:
    """Import and call the factory; UsageError says which part of the name is wrong."""
    from torch import nn

    module_name, _, attribute = name.partition(":")
    with _current_folder_on_path():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise UsageError(f"there is no Python module '{module_name}' (looked here and in site-packages): check the name before the colon.") from error
            raise UsageError(f"'{module_name}' imports '{error.name}', which is not installed: install it first.") from error
        except Exception as error:
            raise UsageError(f"'{module_name}' fails on import ({type(error).__name__}: {error}): fix that first.") from error
        factory = getattr(module, attribute, None)
        if not callable(factory):
            raise UsageError(f"'{module_name}' has no function or class '{attribute}': check the name after the colon.")
        try:
            built = factory()
        except Exception as error:
            raise UsageError(f"'{name}' fails when called ({type(error).__name__}: {error}): it must take no arguments and return an nn.Module.") from error
    if not isinstance(built, nn.Module):
        raise UsageError(f"'{name}' returns {type(built).__name__}, not an nn.Module: return the module itself.")
    return built.eval()


def entry_point(module: nn.Module, name: str) -> EntryPoint:
    """``forward`` as an entry point, from what the module says of itself."""
    given = _told(module, "example_inputs")
    if given is None:
        raise InputError(f"'{name}' does not say its example inputs: give the module an `example_inputs` (a tuple of tensors, or a list of such samples).")
    parameters = [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
    ]
    samples = given if isinstance(given, list) else [given]
    names = tuple(_told(module, "input_names") or parameters[: len(samples[0]) if samples else 0])
    arrays = [_sample(sample, names, name) for sample in samples]
    dims: Mapping[str, Mapping[int, str]] = _told(module, "dynamic_dims") or {}
    first = arrays[0]
    specs = tuple(
        TensorSpec(
            name=key,
            dtype=first[key].dtype.name,
            shape=tuple(dims.get(key, {}).get(axis, size) for axis, size in enumerate(first[key].shape)),
        )
        for key in names
    )
    return EntryPoint(
        name="forward",
        module=module,
        inputs=specs,
        outputs=_output_names(module, arrays[0], names),
        samples=arrays,
        dynamic=tuple(
            DynamicDim(input=key, axis=axis, name=dim) for key, axes in dims.items() for axis, dim in axes.items()
        ),
    )


def _sample(sample: Any, names: Sequence[str], model: str) -> Arrays:
    import torch

    if isinstance(sample, torch.Tensor):
        sample = (sample,)
    values: list[Any] = [sample.get(key) for key in names] if isinstance(sample, Mapping) else list(sample)
    if len(values) != len(names) or not all(isinstance(value, torch.Tensor) for value in values):
        raise InputError(f"an example input of '{model}' does not match its inputs ({', '.join(names)}): give one tensor for each.")
    arrays = {key: value.detach().numpy() for key, value in zip(names, values, strict=True)}
    for key, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise InputError(f"example input '{key}' of '{model}' is {array.dtype.name}: use one of {', '.join(DTYPES)}.")
    return arrays


def _output_names(module: nn.Module, sample: Arrays, names: Sequence[str]) -> tuple[str, ...]:
    import torch

    told = _told(module, "output_names")
    if told is not None:
        return tuple(told)
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(np.array(sample[key])) for key in names))
    count = 1 if isinstance(outputs, torch.Tensor) else len(outputs)
    return ("output",) if count == 1 else tuple(f"output{index}" for index in range(count))


def _told(module: nn.Module, attribute: str) -> Any:
    value = getattr(module, attribute, None)
    return value() if callable(value) else value


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


FAMILY = UserFamily()
