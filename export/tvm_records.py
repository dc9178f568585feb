"""Tuning records: which schedule was measured fastest for a kernel on a CPU, kept between exports and in bundles.

A file is gzipped JSON, {"tvm": version, "records": [{"workload", "record"}, ...]} with one record a kernel, MetaSchedule's
own encoding of each. It is a cache: what cannot be read, or is of another TVM, counts as absent. It is written whole and
renamed, so that an interruption leaves either the old file or the new one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge.cache import cache_dir
from edge.dependencies import version
from edge.export.tvm_schedule import is_scheduled
from edge.files import write_atomically
from edge.spec import Target

RECORDS = "tuning.json.gz"


def records_path(target: Target) -> Path:
    """Where the user's records for this CPU are."""
    features = "".join(sorted(target.features))
    return cache_dir() / "tvm" / f"{target.arch}-{target.cpu}{features}" / RECORDS


def load_records(path: Path) -> Any:
    """A database in memory with the records of ``path``; empty if there is none, or it is of another TVM."""
    from tvm.s_tir.meta_schedule.database import MemoryDatabase, TuningRecord, Workload

    database = MemoryDatabase()
    try:
        stored = json.loads(gzip.decompress(path.read_bytes()))
        if stored["tvm"] != version("apache-tvm"):
            return database
        pairs = [(Workload.from_json(entry["workload"]).mod, entry["record"]) for entry in stored["records"]]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        return database  # a cache: what cannot be read is made again
    for module, record in pairs:
        workload = database.commit_workload(module)
        database.commit_tuning_record(TuningRecord.from_json(record, workload))
    return database


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write ``records`` to ``path`` in one step; the same records give the same bytes."""
    entries = [{"workload": record.workload.as_json(), "record": record.as_json()} for record in records]
    entries.sort(key=lambda entry: json.dumps(entry, sort_keys=True))
    stored = {"tvm": version("apache-tvm"), "records": entries}
    data = gzip.compress(json.dumps(stored, sort_keys=True).encode(), mtime=0)
    write_atomically(path, data)


def best_record(database: Any, module: Any) -> Any:
    """The fastest record of a kernel's module, or None."""
    if not database.has_workload(module):
        return None
    return next(iter(database.get_top_k(database.commit_workload(module), 1)), None)


def records_for(module: Any, database: Any, foreign: bool) -> list[Any]:
    """The best record of each unscheduled kernel of a fused module that has one.

    For a ``foreign`` CPU only what a search has found: edge's own schedules fit the CPU that they are made for.
    """
    from tvm import tirx

    found = []
    for _, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and not is_scheduled(function):
            record = best_record(database, workload_of(function))
            if record is not None and not (foreign and not _is_searched(record)):
                found.append(record)
    return found


def apply_records(module: Any, records: Iterable[Any], llvm: Any) -> Any:
    """``module`` with the kernels that ``records`` are for scheduled as they say."""
    from tvm import relax
    from tvm.s_tir.meta_schedule.database import MemoryDatabase

    database = MemoryDatabase()
    add_records(database, records)
    with llvm, database:
        return relax.transform.MetaScheduleApplyDatabase()(module)


def _is_searched(record: Any) -> bool:
    """Whether MetaSchedule drew this schedule's numbers; edge's own have none that are drawn."""
    return any(str(instruction.kind.name).startswith("Sample") for instruction in record.trace.insts)


def workload_of(function: Any) -> Any:
    """A kernel as MetaSchedule names it when it looks for records."""
    import tvm

    return tvm.get_global_func("tvm.s_tir.meta_schedule.normalize_mod")(function)


def add_records(database: Any, records: Iterable[Any]) -> None:
    """Add records of another database."""
    from tvm.s_tir.meta_schedule.database import TuningRecord

    for record in records:
        workload = database.commit_workload(record.workload.mod)
        database.commit_tuning_record(
            TuningRecord(record.trace, workload, record.run_secs, record.target, record.args_info)
        )


def best_of_each(database: Any) -> list[Any]:
    """The best record of every kernel."""
    best: dict[int, Any] = {}
    for record in database.get_all_tuning_records():
        found = best_record(database, record.workload.mod)
        best[hash(found.workload)] = found
    return list(best.values())
