"""Reports of a measurement: JSON that comes back the same, a trace that nests, a table that says the figures."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import msgspec
import pytest
from measurements import EVIL, MB, entry, full_measurement, measurement, operator
from pages import parsed
from rich.console import Console, RenderableType

from edge.conditions import Conditions
from edge.errors import InputError
from edge.manifest import ErrorStats
from edge.measurement import EntryCheck, Measurement
from edge.report import counts, html, jsonfile, table, trace, units
from edge.runtimes.native.counting import Counts, EntryCount, OperatorCount
from edge.runtimes.native.marks import Instructions
from edge.spec import Tolerance


@pytest.fixture(scope="module")
def full() -> Measurement:
    return full_measurement()


def shown(renderable: RenderableType, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- JSON


def test_json_comes_back_as_the_same_value(full: Measurement, tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.json"
    jsonfile.save(full, path)
    assert jsonfile.load(path) == full


def test_json_is_for_other_tools_too(full: Measurement) -> None:
    plain = json.loads(jsonfile.encode(full))
    assert plain["entries"][0]["latency"]["p50_us"] == full.entries[0].latency.p50_us
    assert plain["entries"][1]["runs"][-1][1] == 500.0
    assert plain["memory"]["peak"] == 92 * MB


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw[: len(raw) // 2], "is not what"),
        (lambda raw: raw.replace(b'"schema":1', b'"schema":2'), "schema 2 and this edge reads 1"),
        (lambda raw: raw.replace(b'"created"', b'"creation"'), "is not what"),
        (lambda raw: raw.replace(b'"threads":2,', b'"threads":"two",', 1), "is not what"),
        (lambda raw: b"\xff\xfe", "is not what"),
        (lambda raw: b"[]", "is not what"),
    ],
)
def test_json_that_is_not_ours_is_refused(full: Measurement, tmp_path: Path, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "p.json"
    path.write_bytes(change(jsonfile.encode(full)))
    with pytest.raises(InputError, match=reason) as caught:
        jsonfile.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_json_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        jsonfile.load(tmp_path / "nothing.json")


# --- Chrome trace


def test_trace_has_what_the_format_asks_for(full: Measurement) -> None:
    parsed = json.loads(trace.encode(full))
    for event in parsed["traceEvents"]:
        assert event["ph"] in {"X", "C", "M"}
        assert isinstance(event["name"], str) and event["pid"] == trace.PROCESS
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] > 0 and event["tid"] > 0
        if event["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in event["args"].values())
    named = {event["tid"] for event in parsed["traceEvents"] if event["name"] == "thread_name"}
    assert {event["tid"] for event in parsed["traceEvents"] if event["ph"] == "X"} == named


def test_no_two_events_of_a_track_cross(full: Measurement) -> None:
    """Perfetto drops slices that start inside another one of their track and end after it."""
    tracks: dict[int, list[tuple[float, float]]] = {}
    for event in json.loads(trace.encode(full))["traceEvents"]:
        if event["ph"] == "X":
            tracks.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(tracks) == 4
    for events in tracks.values():
        events.sort()
        for (_, end), (start, _) in itertools.pairwise(events):
            assert start >= end - 1e-6


def test_trace_keeps_every_run_and_what_was_measured(full: Measurement) -> None:
    events = json.loads(trace.encode(full))["traceEvents"]
    runs = [event for event in events if event.get("tid") == trace.RUNS and event["ph"] == "X"]
    assert [event["dur"] for event in runs] == [run.duration_us for one in full.entries for run in one.runs]
    (moved,) = [event for event in events if event["name"] == EVIL]
    assert moved["args"]["measured_start_us"] == 35.0
    assert moved["ts"] == 9e6 + 40.0  # after /up/MatMul, which takes 40 us
    counters = [event["args"]["MB"] for event in events if event["name"] == "resident memory"]
    assert counters[:3] == [30.0, 60.0, 80.0]


def test_trace_has_the_sensors_and_the_blocks(full: Measurement) -> None:
    events = json.loads(trace.encode(full))["traceEvents"]
    counted = {event["name"]: event["args"] for event in events if event["ph"] == "C" and event["ts"] == 2e6}
    assert counted == {
        "temperature": {"°C": 61.0}, "clock": {"cores 0 MHz": 1800.0, "cores 1 MHz": 2400.0}, "throttled": {"reasons": 1},
    }
    blocks = [event for event in events if event.get("cat") == "block"]
    assert [block["name"] for block in blocks] == ["forward (run again)", "forward"]
    assert blocks[0]["args"]["spoiled"] == "throttled" and blocks[1]["args"]["waited_s"] == 4.0
    assert not [event for event in events if event["ph"] == "C" and event["ts"] < 0]


# --- terminal


def test_without_roof_operators_or_errors_the_reports_say_so(full: Measurement) -> None:
    bare = msgspec.structs.replace(
        full, roof=None, warnings=(), figures=(), conditions=Conditions(sources={"frequency": "not readable: no driver"}),
        entries=tuple(msgspec.structs.replace(one, bound=None, operators=(), errors=()) for one in full.entries),
    )
    text = " ".join(parsed(html.encode(bare)).text)
    assert "not measured" in text and "not verified" in text and "not readable: no driver" in text
    assert "°C" not in text
    assert "forward" in shown(table.render(bare))


def test_table_says_the_figures(full: Measurement) -> None:
    text = shown(table.render(full))
    for wanted in (
        "forward", "decode", "92.0 MB", "20.0 % arithmetic", "Warning: the machine was busy.", "/up/MatMul", "12,300 tokens/s",
        "12.3 mJ", "waited 4 s",
    ):
        assert wanted in text
    assert units.duration(full.entries[0].latency.p90_us) in text


def test_kernels_that_begin_alike_stay_apart_in_a_narrow_window(full: Measurement) -> None:
    names = [f"fused_integer_product_cast_multiply_add_gelu_multiply_round_maximum_minimum_add_cast@{place}" for place in (7, 81)]
    odd = entry("forward", [1.0, 2.0], tuple(operator(name, 0.0, 1.0, 0.5) for name in names))
    rows = [line for line in shown(table.render(measurement(odd)), width=90).splitlines() if line.startswith("fused_")]
    assert len(rows) == 2 and "…" in rows[0] and "cast@7 " in rows[0] and "cast@81 " in rows[1]


def test_table_does_not_read_names_as_markup(full: Measurement) -> None:
    odd = msgspec.structs.replace(full.entries[0], operators=(operator("[red]x[/red]", 0.0, 1.0, 1.0),))
    assert "[red]x[/red]" in shown(table.render(measurement(odd)))


def test_counts_do_not_read_names_as_markup() -> None:
    some = Instructions(integer=5, simd_fp=4)
    row = OperatorCount(name="[/a]", kind="", provider="", module="[b]", instructions=some)
    found = Counts(
        edge_version="0", bundle="[c]", manifest_sha256="0", runtime="tvm", runtime_version="0", scheme="fp32", target="rpi5",
        cpu="cortex-a76", emulator="QEMU 7.2", libc="glibc 2.36",
        entries=(EntryCount(entry="[/red]", inference=some, steady=True, operators=(row,)),),
    )
    text = shown(counts.render(found))
    assert all(name in text for name in ("[/a] ([b])", "[c]", "[/red]"))


def test_checks_show_pass_and_fail() -> None:
    stats = [
        ErrorStats(output=name, max_abs=1.0, relative=1.0, cosine=0.5, passed=name == "good")
        for name in ("good", "bad")
    ]
    check = EntryCheck(
        entry="forward", where="onnx", samples=3, tolerance=Tolerance(atol=1e-3, cosine=0.9), outputs=tuple(stats)
    )
    assert not check.passed
    rows = shown(table.render_checks([check])).splitlines()
    assert any("good" in row and "pass" in row for row in rows)
    assert any("bad" in row and "FAIL" in row for row in rows)
