"""Reports of a measurement: JSON that comes back the same, a trace that nests, a page that stands alone."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from edge.conditions import Block, Conditions, Energy, Figure, IdleBand, Reading
from edge.errors import InputError
from edge.manifest import Cost, ErrorStats, MetricRecord
from edge.measurement import (
    Bound,
    BundleFacts,
    DeviceFacts,
    EntryCheck,
    EntryMeasurement,
    Latency,
    Measurement,
    Memory,
    Phase,
    Roof,
    Run,
    Settings,
)
from edge.report import charts, html, jsonfile, svg, table, trace, units
from edge.runtimes.base import OperatorTime
from edge.spec import Tolerance

EVIL = '<script>alert("x")</script> & co'
MB = 10**6


def operator(name: str, start: float, mean: float, share: float) -> OperatorTime:
    return OperatorTime(
        name=name, kind="MatMul", provider="CPUExecutionProvider", module="layers.0", calls_per_run=1.0, mean_us=mean,
        share=share, start_us=start,
    )


def entry(
    name: str, durations: list[float], operators: tuple[OperatorTime, ...] = (), start: float = 1e6
) -> EntryMeasurement:
    starts = start + np.concatenate([[0.0], np.cumsum(durations)[:-1]])
    return EntryMeasurement(
        entry=name,
        inputs={"x": (1, 8)},
        bind_us=12.0,
        first_us=900.0,
        warmup_runs=5,
        latency=Latency.of(durations),
        runs=tuple(Run(float(at), one) for at, one in zip(starts, durations, strict=True)),
        operators=operators,
        cost=Cost(flops=2_000_000, weight_bytes=4_000_000, activation_bytes=5000, operators=3),
        bound=Bound(memory_us=None, arithmetic_us=20.0, kind="arithmetic", share=0.2, note="It fits in the cache."),
        errors=(ErrorStats(output="y", max_abs=1e-5, relative=2e-5, cosine=0.999999, passed=True),),
    )


def measurement(*entries: EntryMeasurement) -> Measurement:
    phases = [
        Phase(name="import", start_us=0.0, duration_us=2e5, rss_bytes=60 * MB),
        Phase(name="load", start_us=2e5, duration_us=1e5, rss_bytes=80 * MB),
    ]
    for number, one in enumerate(entries):
        at = one.runs[0].start_us
        total = sum(run.duration_us for run in one.runs)
        phases.append(Phase(
            name="runs", entry=one.entry, start_us=at, duration_us=total, rss_bytes=90 * MB, calls=len(one.runs)
        ))
        if one.operators:
            phases.append(Phase(
                name="operators", entry=one.entry, start_us=9e6 + number * 1e6, duration_us=5e5, rss_bytes=99 * MB
            ))
    return Measurement(
        edge_version="0",
        created="2026-01-02T03:04:05+00:00",
        bundle=BundleFacts(
            name="demo.edge", model="demo", runtime="onnx", runtime_version="1.32.0", scheme="fp32", target="cpu",
            manifest_sha256="ab" * 32, artifact_bytes=4 * MB, total_bytes=5 * MB,
            metrics=(MetricRecord(name="accuracy", higher_is_better=True, eager=0.98, bundle=0.975, data="digits"),),
        ),
        device=DeviceFacts(
            device="local", system="Linux 6", arch="x86_64", cpu="A CPU", cores=2, governor=None, frequency_mhz=None,
            max_frequency_mhz=None, temperature_c=None, caches={"L2": 2**20}, ram_bytes=2**32,
            load_average=(0.1, 0.2, 0.3), busy=0.01, python="3.11.7", versions={"numpy": "2"},
        ),
        settings=Settings(threads=2, runs=5, seconds=0.1),
        phases=tuple(phases),
        memory=Memory(
            baseline=30 * MB, imported=60 * MB, loaded=80 * MB, load_peak=85 * MB, run_peak=92 * MB, peak=92 * MB,
            resets=True,
        ),
        entries=entries,
        roof=Roof(
            threads=2, bandwidth_gbs=20.0, peak_gflops=100.0, bandwidth_method="reads", peak_method="products",
            last_level_cache=32 * 2**20,
        ),
        warnings=("the machine was busy.",),
    )


@pytest.fixture(scope="module")
def full() -> Measurement:
    """Two entries: a short one with dots, a long one with stretches; overlapping and oddly named operators."""
    generator = np.random.default_rng(0)
    first = entry(
        "forward", [float(value) for value in 100 + 10 * generator.standard_exponential(40)],
        (operator("/up/MatMul", 0.0, 40.0, 0.4), operator(EVIL, 35.0, 30.0, 0.3), operator("/down", 70.0, 30.0, 0.3)),
    )
    second = entry("decode", [float(v) for v in 10 + generator.standard_exponential(1500)] + [500.0], start=2e6)
    blocks = (
        Block(start_us=9e5, duration_us=4000.0, runs=40, spoiled=("throttled",), kept=False),
        Block(start_us=1e6, duration_us=4000.0, runs=40, waited_s=4.0),
    )
    energy = Energy(method="RAPL counters (package-0)", joules=0.0123, net_joules=0.004, watts=9.0, idle_watts=6.0, runs=9, seconds=1.0)
    first = msgspec.structs.replace(first, blocks=blocks, energy=energy)
    return msgspec.structs.replace(
        measurement(first, second),
        conditions=Conditions(
            readings=(
                Reading(at_us=-5.0, frequencies_mhz=(1800.0, 2400.0), temperature_c=45.0, throttled=()),
                Reading(at_us=1e6, frequencies_mhz=(1800.0, 2400.0), temperature_c=47.0, rss_bytes=85 * MB),
                Reading(at_us=2e6, frequencies_mhz=(1800.0, 2400.0), temperature_c=61.0, throttled=("throttled",)),
            ),
            sources={
                "frequency": "cpufreq", "temperature": "cpu-thermal", "throttling": "vcgencmd get_throttled",
                "energy": "RAPL counters (package-0)",
            },
            idle=IdleBand(low_c=44.0, high_c=47.0), waited_s=4.0, repeated=1,
        ),
        figures=(Figure(name="decode", value=12345.6, unit="tokens/s", higher_is_better=True, method="one over the median"),),
    )


def shown(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
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


# --- HTML


class Tags(HTMLParser):
    """Checks that elements close in order; keeps attributes and text."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: bytes) -> Tags:
    tags = Tags()
    tags.feed(page.decode("utf-8"))
    assert tags.open == []
    return tags


def test_page_is_whole_and_stands_alone(full: Measurement, tmp_path: Path) -> None:
    html.save(full, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_bytes()
    tags = parsed(page)
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "link", "iframe", "img", "object", "base"}
    for _, attributes in tags.seen:
        assert not {"src", "href", "srcset", "action"} & set(attributes)
        assert not [key for key in attributes if key.startswith("on")]
    lower = page.lower()
    assert b"@import" not in lower and b"url(" not in lower and b"http" not in lower


def test_page_says_the_figures(full: Measurement) -> None:
    tags = parsed(html.encode(full))
    text = re.sub(r"\s+", " ", " ".join(tags.text))
    for one in full.entries:
        assert units.duration(one.latency.p50_us) in text
        assert units.duration(one.latency.p99_us) in text
    assert "92.0 MB" in text  # peak memory
    assert "The machine was busy." in text
    assert "20.0 % (arithmetic)" in text
    for wanted in (
        "12,300 tokens/s", "12.3 mJ", "4.00 mJ above idle", "2400 MHz", "45.0 before, 45.0 to 61.0 during, 61.0 °C after",
        "idle is 44.0 to 47.0", "waited 4 s", "1 block of runs repeated", "throttled (vcgencmd get_throttled)",
    ):
        assert wanted in text, wanted
    assert EVIL in text  # as text, not as an element: see the test above


def test_every_drawing_is_xml_with_finite_places(full: Measurement) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html.encode(full).decode("utf-8"), re.DOTALL)
    # Distribution and order each; kinds and waterfall of one; temperature, clock, memory over time, memory, roofline.
    assert len(drawings) == 2 * 2 + 2 + 5
    for drawing in drawings:
        root = ET.fromstring(drawing)
        width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
        for element in root.iter():
            for key, value in element.attrib.items():
                if key in ("x", "x1", "x2", "cx", "width"):
                    assert -0.1 <= float(value) <= width + 0.1
                if key in ("y", "y1", "y2", "cy", "height"):
                    assert -0.1 <= float(value) <= height + 0.1


@pytest.mark.parametrize(
    "durations",
    [[5.0], [5.0] * 60, [1.0, 1e6], [0.04] * 3, [1e7, 2e7], [3.0] * 1000 + [1e5]],
    ids=lambda durations: f"{len(durations)} of {durations[0]}",
)
def test_odd_distributions_still_draw(durations: list[float]) -> None:
    one = entry("forward", durations)
    for drawing in (charts.histogram(one), charts.series(one)):
        root = ET.fromstring(str(drawing))
        numbers = [float(v) for e in root.iter() for k, v in e.attrib.items() if k in ("x", "y", "cx", "cy", "height")]
        assert all(np.isfinite(numbers))
    parsed(html.encode(measurement(one)))


def test_histogram_counts_every_run(full: Measurement) -> None:
    for one in full.entries:
        tips = re.findall(r"<title>(\d+) runs", str(charts.histogram(one)))
        assert sum(int(tip) for tip in tips) == len(one.runs)


def test_without_roof_operators_or_errors_the_reports_say_so(full: Measurement) -> None:
    bare = msgspec.structs.replace(
        full, roof=None, warnings=(), figures=(), conditions=Conditions(sources={"frequency": "not readable: no driver"}),
        entries=tuple(msgspec.structs.replace(one, bound=None, operators=(), errors=()) for one in full.entries),
    )
    text = " ".join(parsed(html.encode(bare)).text)
    assert "not measured" in text and "not verified" in text and "not readable: no driver" in text
    assert "°C" not in text
    assert "forward" in shown(table.render(bare))


# --- terminal


def test_table_says_the_figures(full: Measurement) -> None:
    text = shown(table.render(full))
    for wanted in (
        "forward", "decode", "92.0 MB", "20.0 % arithmetic", "Warning: the machine was busy.", "/up/MatMul", "12,300 tokens/s",
        "12.3 mJ", "waited 4 s",
    ):
        assert wanted in text
    assert units.duration(full.entries[0].latency.p90_us) in text


def test_table_does_not_read_names_as_markup(full: Measurement) -> None:
    odd = msgspec.structs.replace(full.entries[0], operators=(operator("[red]x[/red]", 0.0, 1.0, 1.0),))
    assert "[red]x[/red]" in shown(table.render(measurement(odd)))


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


# --- figures and scales


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0.5, "500 ns"), (1.0, "1.00 µs"), (12.34, "12.3 µs"), (999.4, "999 µs"), (999.6, "1.00 ms"), (5.5e5, "550 ms"),
        (2.5e6, "2.50 s"),
    ],
)
def test_durations(us: float, text: str) -> None:
    assert units.duration(us) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.321, "ms", "321 µs"), (0.00194, "J", "1.94 mJ"), (99579.0, "tokens/s", "99,600 tokens/s"), (7.6, "tokens/s", "7.60 tokens/s")],
)
def test_figures(value: float, unit: str, text: str) -> None:
    assert units.figure(value, unit) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (999_600, "1.00 MB"), (2.5e9, "2.50 GB")]
)
def test_sizes(size: float, text: str) -> None:
    assert units.size(size) == text


@given(st.floats(0, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_and_within(low: float, span: float) -> None:
    scale = svg.Scale(low, low + span, 0.0, 100.0)
    ticks = scale.ticks()
    assert len(ticks) <= 11
    slack = 1e-6 * max(abs(scale.high), span)
    assert all(scale.low - slack <= value <= scale.high + slack for value in ticks)


@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e9))
def test_logarithmic_ticks_are_few_and_within(low: float, factor: float) -> None:
    scale = svg.Scale(low, low * factor, 0.0, 100.0, log=True)
    ticks = scale.ticks()
    assert len(ticks) <= 10
    assert all(low * 0.999 <= value <= low * factor * 1.001 for value in ticks)


@given(st.floats(-1e3, 1e3))
def test_a_scale_never_leaves_the_drawing(value: float) -> None:
    assert 10.0 <= svg.Scale(0.0, 1.0, 10.0, 90.0)(value) <= 90.0
    assert 10.0 <= svg.Scale(1.0, 100.0, 90.0, 10.0, log=True)(value) <= 90.0


@given(st.text(max_size=60), st.integers(5, 30))
def test_clipped_names_fit(name: str, most: int) -> None:
    short = svg.clipped(name, most)
    assert len(short) <= most
    assert short == name or (name.startswith(short.split("…")[0]) and "…" in short)


@pytest.mark.slow
def test_the_page_in_a_browser(full: Measurement, tmp_path: Path) -> None:
    """Nothing is wider than the window, on a desk or a phone; no label of a chart lies on another; dark is dark."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    html.save(full, tmp_path / "p.html")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    program = shutil.which("chromedriver")
    assert program is not None, "the browser test needs Debian's chromium and chromium-driver"
    browser = webdriver.Chrome(options, Service(program))
    try:
        for width, scheme in ((1280, "light"), (390, "light"), (390, "dark")):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get((tmp_path / "p.html").as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script(OUTSIDE) == []
            assert browser.execute_script(OVERLAPS) == []
            background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            red = int(re.findall(r"\d+", background)[0])
            assert red < 60 if scheme == "dark" else red > 200
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    finally:
        browser.quit()


#: Text of a tile or a chart that sticks out of it.
OUTSIDE = """
return [...document.querySelectorAll('.tile, svg')].flatMap(box => {
  const outer = box.getBoundingClientRect();
  return [...box.querySelectorAll('b, span, text')].filter(one => {
    const inner = one.getBoundingClientRect();
    return inner.right > outer.right + 1 || inner.left < outer.left - 1;
  }).map(one => one.textContent);
});
"""
#: Pairs of a chart's texts that cover each other by more than a fifth of the smaller one.
OVERLAPS = """
return [...document.querySelectorAll('svg')].flatMap(svg => {
  const all = [...svg.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
  const found = [];
  all.forEach(([a, p], i) => all.slice(i + 1).forEach(([b, q]) => {
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    const least = Math.min(p.width * p.height, q.width * q.height);
    if (wide > 0 && high > 0 && wide * high > 0.2 * least) found.push(a + ' / ' + b);
  }));
  return found;
});
"""
