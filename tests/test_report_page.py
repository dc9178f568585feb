"""The page of a measurement: it stands alone, its drawings are whole, and nothing sticks out in a browser."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import EVIL, entry, full_measurement, measurement
from pages import parsed

from edge.measurement import Measurement
from edge.report import charts, html, svg, units


@pytest.fixture(scope="module")
def full() -> Measurement:
    return full_measurement()


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


@pytest.mark.parametrize("runs", [1, 2, 3, 9])
def test_histogram_has_no_half_runs(runs: int) -> None:
    """Few runs: the axis has room for ticks between two whole ones, which would carry the same label."""
    drawing = ET.fromstring(str(charts.histogram(entry("forward", [5.0] * runs))))
    labels = [element.text for element in drawing.iter("text") if element.attrib["class"] == "tick" and element.attrib["text-anchor"] == "end"]
    assert all(label is None or label == str(int(label)) for label in labels)
    whole = [label for label in labels if label]
    assert len(whole) == len(set(whole)) >= 2 and 0 < max(map(int, whole)) <= runs


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
    ("value", "text"),
    [(0.0, "0"), (0.000123, "0.000123"), (0.0456, "0.0456"), (0.9996, "1.00"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12346"),
     (-0.5, "-0.500"), (-12.34, "-12.3"), (float("inf"), "inf")],
)
def test_digits(value: float, text: str) -> None:
    """A metric of a ten-thousandth is not 0.000."""
    assert units.digits(value) == text


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


# --- a browser


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
