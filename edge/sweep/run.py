"""Running a sweep on dask.distributed: its own cluster on this machine, or the workers of a scheduler that is there.

Bundles are made first, by every worker at once; then they are measured. A device is a worker resource
("device:ADDRESS"), so that one measurement at a time has it, and a worker that dies has its cell tried again by another
that offers the device. Results are collected here, by this process alone (see ``store``).

Everything that dask's workers are told is code to them: name only a scheduler that you would give a shell.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.dependencies import require
from edge.errors import DeviceError
from edge.progress import Progress
from edge.runtimes.base import usable_cores
from edge.sweep import tasks
from edge.sweep.plan import Cell, Plan
from edge.sweep.store import SweepStore
from edge.sweep.tasks import Outcome

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

#: Seconds to wait for a scheduler that does not answer.
PATIENCE = 30


def run(
    plan: Plan, store: SweepStore, *, scheduler: str | None, workers: int | None, progress: Progress
) -> list[Outcome]:
    """Try the cells of ``plan`` that ``store`` has no outcome of; every outcome, in the plan's order.

    Raises MissingDependencyError, DeviceError for a scheduler that is not there or has no worker with a device that the
    sweep needs, and StorageError.
    """
    require("sweep", "a sweep", "distributed")
    missing = [cell for cell in plan.cells if store.outcome(cell) is None]
    if missing:
        with _client(plan, scheduler, workers) as client:
            _check_devices(client, missing, scheduler)
            refused = _make(client, missing, plan, store, progress)
            if scheduler is None:
                # All workers are of this machine: what one cannot make none can, and trying would disturb the measuring.
                for cell in missing:
                    if (sentence := refused.get(cell.export_name)) and not cell.bundle:
                        _keep(Outcome(cell=cell, refused=sentence), store, progress)
                missing = [cell for cell in missing if store.outcome(cell) is None]
            _measure(client, missing, plan, store, progress)
    found = [store.outcome(cell) for cell in plan.cells]
    return [outcome for outcome in found if outcome is not None]


def resource(device: str) -> str:
    """The name of the worker resource that stands for ``device``."""
    return f"device:{device}"


def _make(client: Client, cells: Sequence[Cell], plan: Plan, store: SweepStore, progress: Progress) -> dict[str, str]:
    """The bundles, each once; by its name why one was refused, which another worker may not have to say."""
    wanted = {cell.export_name: cell for cell in cells if not cell.bundle}
    where = (str(store.bundles.absolute()), str(plan.folder))
    futures = {
        client.submit(tasks.make, msgspec.json.encode(cell), *where, key=f"make-{name}", pure=False): name
        for name, cell in wanted.items()
    }
    refused = {}
    with progress.bar("making bundles", len(futures)) as bar:
        for future in _completed(list(futures)):
            if future.exception() is None and (sentence := future.result()):
                refused[futures[future]] = sentence
            bar.advance()
    return refused


def _keep(outcome: Outcome, store: SweepStore, progress: Progress) -> None:
    store.keep(outcome)
    if outcome.refused is not None:
        progress.warn(f"{outcome.cell.name}: {outcome.refused}")


def _measure(client: Client, cells: Sequence[Cell], plan: Plan, store: SweepStore, progress: Progress) -> None:
    where = (str(store.bundles.absolute()), str(plan.folder))
    futures = {
        client.submit(
            tasks.measure, msgspec.json.encode(cell), *where, key=f"measure-{cell.id}", pure=False,
            resources={resource(cell.device): 1},
        ): cell
        for cell in cells
    }
    with progress.bar("measuring", len(futures)) as bar:
        for future in _completed(list(futures)):
            cell = futures[future]
            error = future.exception()
            if error is None:
                outcome = msgspec.json.decode(future.result(), type=Outcome)
            else:
                # Its worker died again and again, or what it did was not foreseen.
                detail = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                outcome = Outcome(cell=cell, refused=f"the worker failed ({detail})")
            _keep(outcome, store, progress)
            future.release()
            bar.advance()
            bar.note(cell.name)


def _completed(futures: Sequence[Future]) -> Iterator[Future]:
    from distributed import as_completed

    yield from as_completed(futures)


@contextlib.contextmanager
def _client(plan: Plan, scheduler: str | None, workers: int | None) -> Iterator[Client]:
    from distributed import Client

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise DeviceError(f"there is no dask scheduler at {scheduler} ({error or 'no answer'}): check the address.") from error
        with client:
            yield client
        return
    with _cluster(plan.devices, workers or usable_cores()) as cluster, Client(cluster, timeout=PATIENCE) as client:
        yield client


@contextlib.contextmanager
def _cluster(devices: Sequence[str], workers: int) -> Iterator[SpecCluster]:
    """Worker processes on this machine, on loopback only; each device belongs to one of them.

    What runs on this machine itself, emulated boards too, belongs to the same one, which does one thing at a time.
    """
    from distributed import Nanny, Scheduler, SpecCluster

    offered: list[dict[str, float]] = [{} for _ in range(workers)]
    here = [device for device in devices if device == "local" or device.startswith("qemu:")]
    for device in here:
        offered[0][resource(device)] = 1
    for index, device in enumerate((device for device in devices if device not in here), 1):
        offered[index % workers][resource(device)] = 1
    # No limit to a worker's memory: an export of a large model takes what it takes.
    common = {"nthreads": 1, "host": "127.0.0.1", "memory_limit": 0, "silence_logs": logging.ERROR}
    specs = {
        index: {"cls": Nanny, "options": {**common, "resources": found}} for index, found in enumerate(offered)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": None}}
    with SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.ERROR) as cluster:
        yield cluster


def _check_devices(client: Client, cells: Sequence[Cell], scheduler: str | None) -> None:
    """A cell whose device no worker offers would wait for ever."""
    if scheduler is None:
        return
    info = client.scheduler_info(n_workers=-1)["workers"]
    offered = {name for worker in info.values() for name in worker.get("resources", {})}
    for device in dict.fromkeys(cell.device for cell in cells):
        if resource(device) not in offered:
            raise DeviceError(
                f"no worker of {scheduler} offers {device}: start one that reaches it with `dask worker {scheduler} "
                f"--nthreads 1 --resources {resource(device)}=1`."
            )


def default_folder(path: Path) -> Path:
    """Where the sweep in the file ``path`` keeps what it finds: sweep.toml gives sweep.out beside it."""
    return path.with_suffix(".out")
