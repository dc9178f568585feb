"""A session that runs a model's entry points in eager torch: the tasks' tests need no runtime and no bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from edge._version import __version__
from edge.devices.targets import load_target
from edge.families.base import Model
from edge.manifest import SCHEMA, Cost, EntryRecord, Manifest, RuntimeRecord
from edge.runtimes.base import OperatorTime, Session
from edge.spec import DEFAULT_TOLERANCE, Recipe, Scheme, TensorSpec


class EagerSession(Session):
    """Computes with the modules of ``model``, through the same checks of names, dtypes and shapes as every session."""

    runtime = "eager"

    def __init__(self, model: Model) -> None:
        self.modules = {entry.name: entry.module for entry in model.entries}
        self.calls = 0
        super().__init__(Path(), _manifest(model), threads=1)

    def check_abi(self) -> None:
        pass

    def open(self) -> None:
        pass

    def bind(self, entry: EntryRecord, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        def call() -> Sequence[np.ndarray]:
            self.calls += 1
            with torch.inference_mode():
                found = self.modules[entry.name](*(torch.from_numpy(value) for value in inputs))
            return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]

        return call

    def operators(self, entry: EntryRecord, inputs: Sequence[np.ndarray], runs: int) -> list[OperatorTime]:
        raise NotImplementedError("eager is not profiled")


def _manifest(model: Model) -> Manifest:
    entries = tuple(
        EntryRecord(
            name=entry.name,
            inputs=entry.inputs,
            outputs=tuple(TensorSpec(name=name, dtype="float32", shape=()) for name in entry.outputs),
            artifact="none",
            method=entry.name,
            samples=0,
            tolerance=DEFAULT_TOLERANCE[Scheme.FP32],
            cost=Cost(flops=0, weight_bytes=0, activation_bytes=0, operators=0),
            stages=(),
        )
        for entry in model.entries
    )
    return Manifest(
        schema=SCHEMA,
        edge_version=__version__,
        model=model.name,
        family=model.family,
        config=model.config,
        checkpoint_sha256=None,
        random_seed=model.random_seed,
        target=load_target("cpu"),
        runtime=RuntimeRecord(name="eager", version=torch.__version__, abi=""),
        recipe=Recipe(runtime="eager", scheme=Scheme.FP32),
        entries=entries,
        verified_on="this host",
    )
