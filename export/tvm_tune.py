"""MetaSchedule on the kernels that matter, within a number of trials; what it finds is kept for the next export.

In: a fused module and a number of trials. Out: records (``edge.export.tvm_records``) in the user's cache. Edge's own
schedule of each kernel is measured first and recorded, so that tuning never makes a kernel slower than that.
"""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from edge.export.tvm_blocks import Machine, blocks_of, is_product, machine_of
from edge.export.tvm_int8 import quick_parsing
from edge.export.tvm_measure import cost_model, local_builder, local_runner, progress_callback
from edge.export.tvm_records import (
    add_records,
    best_of_each,
    best_record,
    load_records,
    records_path,
    workload_of,
    write_records,
)
from edge.export.tvm_schedule import is_scheduled, traced_schedule
from edge.progress import Progress
from edge.runtimes.base import usable_cores
from edge.spec import Target

#: A kernel whose share of all multiply-adds is below this is not tuned.
LEAST_SHARE = 0.01
#: Candidates that are built and measured together.
BATCH = 16
#: Candidates that the search keeps and how often it mutates them, for each batch: a few times a batch, since measuring
#: a batch takes seconds and the cost model knows little.
POPULATION, GENERATIONS = 128, 3


@dataclass(frozen=True)
class Task:
    """A kernel to tune: its module (as a tuning record names it) and how many multiply-adds a run spends in it."""

    name: str
    module: Any
    work: int


def tune(
    module: Any, target: Target, llvm: Any, trials: int, database: Any, progress: Progress, seed: int
) -> list[Task]:
    """Measure ``trials`` candidates for the kernels of the fused ``module`` that matter; results go to ``database``.

    Gives the tuned tasks. What was measured until an interruption stays in the user's cache.
    """
    machine = machine_of(llvm)
    tasks = find_tasks(module)
    if not tasks:
        return []
    with tempfile.TemporaryDirectory(prefix="edge-tune-") as scratch, _quiet(), progress.bar("tune", trials) as bar:
        builder, runner = local_builder(target, Path(scratch)), local_runner()
        try:
            with _interruptible():
                _record_defaults(tasks, machine, llvm, database, builder, runner)
                callback = progress_callback(bar, trials)
                _search(tasks, llvm, trials, database, builder, runner, callback, Path(scratch), seed)
        finally:
            for workers in (builder.pool, runner.pool):
                workers.shutdown()
            # Another export may have added to the file meanwhile.
            known = load_records(records_path(target))
            add_records(known, database.get_all_tuning_records())
            write_records(records_path(target), best_of_each(known))
    return tasks


def find_tasks(module: Any) -> list[Task]:
    """The float sums of products that a run spends its time in, the heaviest first."""
    from tvm import relax, s_tir, tirx

    calls: dict[str, int] = {}

    def count(expression: Any) -> None:
        if isinstance(expression, relax.Call) and getattr(expression.op, "name", "") == "relax.call_tir":
            name = str(expression.args[0].name_hint)
            calls[name] = calls.get(name, 0) + 1

    for _, function in module.functions_items():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, count)
    found = []
    for variable, function in module.functions_items():
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        blocks = blocks_of(s_tir.Schedule(function))
        products = [block for block in blocks if is_product(block)]
        static = all(None not in block.extents for block in blocks)
        # The integer products have one schedule each, made by hand around one instruction.
        if len(products) == 1 and static and not products[0].name.startswith("integer_product"):
            name = str(variable.name_hint)
            found.append(Task(name, workload_of(function), products[0].work * calls.get(name, 0)))
    total = sum(task.work for task in found)
    return sorted((task for task in found if task.work > LEAST_SHARE * total), key=lambda task: -task.work)


def _record_defaults(
    tasks: list[Task], machine: Machine, llvm: Any, database: Any, builder: Any, runner: Any
) -> None:
    """Measure edge's own schedule of each task that has no record yet."""
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.builder import BuilderInput
    from tvm.s_tir.meta_schedule.database import TuningRecord
    from tvm.s_tir.meta_schedule.runner import RunnerInput

    new = [task for task in tasks if best_record(database, task.module) is None]
    scheduled = [(task, traced_schedule(task.module["main"], machine)) for task in new]
    ready = [(task, schedule) for task, schedule in scheduled if schedule is not None]
    built = builder.build([BuilderInput(schedule.mod, llvm) for _, schedule in ready])
    for (task, schedule), artifact in zip(ready, built, strict=True):
        if artifact.error_msg is not None:
            continue
        arguments = ArgInfo.from_prim_func(task.module["main"])
        result = runner.run([RunnerInput(artifact.artifact_path, "cpu", arguments)])[0].result()
        if result.error_msg is None:
            workload = database.commit_workload(task.module)
            database.commit_tuning_record(
                TuningRecord(schedule.trace, workload, list(result.run_secs), llvm, arguments)
            )


def _search(
    tasks: list[Task], llvm: Any, trials: int, database: Any, builder: Any, runner: Any, callback: Any, scratch: Path,
    seed: int,
) -> None:  # fmt: skip
    from tvm.s_tir import meta_schedule as ms
    from tvm.s_tir.meta_schedule.utils import fork_seed

    with quick_parsing():
        from tvm.s_tir import tensor_intrin  # noqa: F401  (a TuneContext imports it)
    contexts = [
        ms.TuneContext(
            mod=task.module,
            target=llvm,
            space_generator="post-order-apply",
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=POPULATION, genetic_num_iters=GENERATIONS
            ),
            task_name=task.name,
            rand_state=state,
            num_threads=usable_cores(),
        ).clone()
        for task, state in zip(tasks, fork_seed(seed + 1, n=len(tasks)), strict=True)
    ]
    ms.tune_tasks(
        tasks=contexts,
        task_weights=[max(task.work, 1) / tasks[0].work for task in tasks],
        work_dir=str(scratch),
        max_trials_global=trials,
        num_trials_per_iter=max(1, min(BATCH, trials // len(tasks))),
        builder=builder,
        runner=runner,
        database=database,
        cost_model=cost_model(),
        measure_callbacks=[
            ms.measure_callback.AddToDatabase(),
            ms.measure_callback.RemoveBuildArtifact(),
            ms.measure_callback.UpdateCostModel(),
            callback,
        ],
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt: one that strikes in a callback comes out of TVM as a RuntimeError without a word."""
    struck = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def strike(number: int, frame: FrameType | None) -> None:
        nonlocal struck
        struck = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, strike)
    try:
        yield
    except RuntimeError as error:
        if struck:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """MetaSchedule logs every step of its search; the progress bar says what a user wants to know."""
    logger = logging.getLogger("tvm.s_tir.meta_schedule")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
