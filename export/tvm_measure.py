"""What MetaSchedule needs to measure candidates on this host: a builder, a runner, a cost model, and its progress.

Candidates are built in worker processes (a bad one may take the compiler minutes, hence the timeout) and linked by
``ziglang``, where TVM's default wants a C compiler on the machine.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge.dependencies import version
from edge.progress import ProgressBar
from edge.runtimes.base import usable_cores
from edge.spec import Target

#: Seconds that a candidate may take to build, and to run.
BUILD_TIMEOUT, RUN_TIMEOUT = 60.0, 30.0
#: A measurement lasts at least this long.
LEAST_MS = 40
#: Below so many measurements a regression knows nothing.
LEAST_SAMPLES = 12


def local_builder(target: Target, scratch: Path) -> Any:
    """Builds candidates in worker processes that live as long as the builder: to start one takes seconds."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder
    from tvm.support.popen_pool import PopenPoolExecutor, StatusKind

    encoded = msgspec.json.encode(target)

    @derived_object
    class Builder(PyBuilder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.pool = PopenPoolExecutor(usable_cores(), BUILD_TIMEOUT, stderr=subprocess.DEVNULL)

        def build(self, inputs: Any) -> Any:
            jobs = [(given.mod, given.target, encoded, str(scratch)) for given in inputs]
            return [
                BuilderResult(result.value, None)
                if result.status == StatusKind.COMPLETE
                else BuilderResult(None, str(result.value))
                for result in self.pool.map_with_error_catching(build_candidate, jobs)
            ]

    return Builder()


def build_candidate(job: tuple[Any, Any, bytes, str]) -> str:
    """Runs in a worker: compile and link as an export would, so that what is measured is what will run."""
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    from edge.export.tvm_compile import compile_context
    from edge.export.tvm_link import export_library
    from edge.export.tvm_math import vectorize_math

    module, llvm, target, scratch = job
    with compile_context(llvm):
        plain = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
        compiled = build(vectorize_math(plain), target=llvm)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    export_library(compiled, msgspec.json.decode(target, type=Target), folder / "candidate.so", folder / "objects")
    return str(folder / "candidate.so")


def local_runner() -> Any:
    from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, LocalRunner

    config = EvaluatorConfig(number=3, repeat=1, min_repeat_ms=LEAST_MS, enable_cpu_cache_flush=False)
    return LocalRunner(timeout_sec=RUN_TIMEOUT, evaluator_config=config)


def progress_callback(bar: ProgressBar, trials: int) -> Any:
    """Moves ``bar`` on by each batch, and notes the best time of the kernel at hand."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback

    @derived_object
    class Report(PyMeasureCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.best: dict[int, float] = {}
            self.done = 0

        def apply(self, scheduler: Any, task: int, candidates: Any, built: Any, results: Any) -> None:
            times = [float(min(result.run_secs)) for result in results if result.error_msg is None]
            if times:
                self.best[task] = min([self.best.get(task, float("inf")), *times])
            step = min(len(candidates), trials - self.done)
            self.done += step
            if step:
                bar.advance(step)
            if task in self.best:
                name = str(scheduler.tasks_[task].ctx.task_name)
                bar.note(f"{name}: best {1e6 * self.best[task]:.1f} us")

    return Report()


def cost_model() -> Any:
    """Which candidates are worth measuring: trees over TVM's own features, where scikit-learn is there; else chance."""
    from tvm.s_tir.meta_schedule.cost_model import RandomModel

    return RandomModel() if version("scikit-learn") is None else _forest()


def _forest() -> Any:
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.cost_model import PyCostModel
    from tvm.s_tir.meta_schedule.feature_extractor import PerStoreFeature

    @derived_object
    class Forest(PyCostModel):  # type: ignore[misc]
        """Predicts how near a candidate comes to the best of its task, from all candidates measured so far."""

        def __init__(self) -> None:
            super().__init__()
            self.extractor = PerStoreFeature()
            self.features: list[np.ndarray] = []
            self.seconds: list[float] = []
            self.tasks: list[str] = []
            self.trees: Any = None

        def load(self, path: str) -> None:
            raise NotImplementedError

        def save(self, path: str) -> None:
            raise NotImplementedError

        def update(self, context: Any, candidates: Any, results: Any) -> None:
            from sklearn.ensemble import ExtraTreesRegressor

            for row, result in zip(self.rows(context, candidates), results, strict=True):
                failed = result.error_msg is not None
                self.features.append(row)
                self.seconds.append(float("inf") if failed else float(min(result.run_secs)))
                self.tasks.append(str(context.task_name))
            if len(self.seconds) >= LEAST_SAMPLES:
                self.trees = ExtraTreesRegressor(64, min_samples_leaf=2, random_state=0)
                self.trees.fit(np.stack(self.features), self.scores())

        def predict(self, context: Any, candidates: Any) -> np.ndarray:
            rows = self.rows(context, candidates)
            if self.trees is None:
                return np.random.default_rng(len(self.seconds)).random(len(rows))
            found: np.ndarray = self.trees.predict(np.stack(rows))
            return found

        def rows(self, context: Any, candidates: Any) -> list[np.ndarray]:
            """One row a candidate: its stores' features added up (they are logarithms) and the largest of each."""
            extracted = self.extractor.extract_from(context, candidates)
            stores = [np.asarray(features.numpy(), np.float64) for features in extracted]
            return [np.concatenate([rows.sum(0), rows.max(0)]) for rows in stores]

        def scores(self) -> np.ndarray:
            """Best time of the task over this time: 1 for its best candidate, 0 for one that does not run."""
            names, seconds = np.asarray(self.tasks), np.asarray(self.seconds)
            best = {name: seconds[names == name].min() for name in set(self.tasks)}
            fastest = np.asarray([best[name] for name in self.tasks])
            with np.errstate(invalid="ignore"):
                scores: np.ndarray = np.nan_to_num(fastest / seconds)
            return scores

    return Forest()
