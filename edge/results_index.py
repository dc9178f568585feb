"""The index of kept results: SQLite, one row for each entry point of each result.

Made from the results' own files and made again whenever it is missing, of another version or damaged; a result that a
process kept just before it died is added when somebody lists.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edge import results
from edge.bundle import storage_errors
from edge.errors import EdgeError, StorageError
from edge.measurement import EntryMeasurement, Measurement

NAME = "index.sqlite"
VERSION = 2
#: Seconds to wait for another process that writes.
PATIENCE = 30.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One entry point of one result."""

    id: str
    created: str
    bundle: str
    manifest_sha256: str
    model: str
    entry: str
    runtime: str
    runtime_version: str
    scheme: str
    target: str
    device: str
    cpu: str
    governor: str | None
    threads: int
    edge_version: str
    runs: int
    p50_us: float
    p90_us: float
    p99_us: float
    peak_bytes: int
    artifact_bytes: int
    relative_error: float | None
    joules: float | None
    stayed_hot: bool
    cut_short: bool


FIELDS = tuple(field.name for field in msgspec.structs.fields(Row))
#: What `edge results` can filter by, as it is.
FILTERS = ("bundle", "model", "entry", "runtime", "scheme", "target", "device")


def add(folder: Path, name: str, measurement: Measurement) -> None:
    """Index one result. Raises StorageError."""
    with _opened(folder) as connection, connection:
        _insert(connection, rows(name, measurement))


def find(folder: Path, filters: dict[str, str], since: str | None = None) -> list[Row]:
    """Rows that match, newest first. ``since`` is the beginning of an ISO date. Raises StorageError."""
    if not folder.is_dir():
        return []
    wanted = {name: value for name, value in filters.items() if name in FILTERS}
    conditions = [f"{name} = ?" for name in wanted]
    values = list(wanted.values())
    if since is not None:
        conditions.append("created >= ?")
        values.append(since)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    with _opened(folder) as connection:
        _catch_up(connection, folder)
        query = f"SELECT {', '.join(FIELDS)} FROM results{where} ORDER BY created DESC, id DESC, rowid"
        found = connection.execute(query, values).fetchall()
    return [msgspec.convert(dict(zip(FIELDS, one, strict=True)), Row, strict=False) for one in found]


def rows(name: str, measurement: Measurement) -> list[Row]:
    return [_row(name, measurement, entry) for entry in measurement.entries]


def _row(name: str, measurement: Measurement, entry: EntryMeasurement) -> Row:
    bundle, device = measurement.bundle, measurement.device
    return Row(
        id=name,
        created=measurement.created,
        bundle=bundle.name,
        manifest_sha256=bundle.manifest_sha256,
        model=bundle.model,
        entry=entry.entry,
        runtime=bundle.runtime,
        runtime_version=bundle.runtime_version,
        scheme=bundle.scheme,
        target=bundle.target,
        device=device.device,
        cpu=device.cpu,
        governor=device.governor,
        threads=measurement.settings.threads_of(entry.entry),
        edge_version=measurement.edge_version,
        runs=entry.latency.runs,
        p50_us=entry.latency.p50_us,
        p90_us=entry.latency.p90_us,
        p99_us=entry.latency.p99_us,
        peak_bytes=measurement.memory.peak,
        artifact_bytes=bundle.artifact_bytes,
        relative_error=max((one.relative for one in entry.errors), default=None),
        joules=entry.energy.joules if entry.energy else None,
        stayed_hot=measurement.conditions.stayed_hot,
        cut_short=measurement.cut_short,
    )


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """The index, its table there; a damaged or older one is made again."""
    path = folder / NAME
    with storage_errors(str(path)):
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(f"the index of results {path} cannot be opened ({error}): check its folder.") from error
            path.unlink()
            connection = _connect(path)
    try:
        yield connection
    except sqlite3.Error as error:
        raise StorageError(f"the index of results {path} failed ({error}): delete it, it is made again.") from error
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        with connection:
            if version not in (0, VERSION):
                connection.execute("DROP TABLE IF EXISTS results")
            columns = ", ".join(FIELDS)
            connection.execute(f"CREATE TABLE IF NOT EXISTS results ({columns}, PRIMARY KEY (id, entry))")
            connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _catch_up(connection: sqlite3.Connection, folder: Path) -> None:
    """Add results that are there and not indexed; forget those that are gone."""
    # In this order: what another process keeps in between is there, and not taken for one that is gone.
    indexed = {name for (name,) in connection.execute("SELECT DISTINCT id FROM results")}
    there = set(results.identities(folder))
    with connection:
        connection.executemany("DELETE FROM results WHERE id = ?", [(name,) for name in indexed - there])
        for name in sorted(there - indexed):
            # One that cannot be read is no reason not to list the others.
            with contextlib.suppress(EdgeError):
                _insert(connection, rows(name, results.load(name, folder)))


def _insert(connection: sqlite3.Connection, found: Sequence[Row]) -> None:
    places = ", ".join("?" * len(FIELDS))
    connection.executemany(
        f"INSERT OR REPLACE INTO results ({', '.join(FIELDS)}) VALUES ({places})", [msgspec.structs.astuple(row) for row in found]
    )
