"""The TSPulse tasks: IBM's own scores and fillings reproduced, the demo at work, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from eager_session import EagerSession
from safetensors.numpy import save_file

from edge import checkpoints
from edge.csvfile import read_csv
from edge.errors import EdgeError, InputError
from edge.families.base import Source, find
from edge.families.tspulse.anomaly import combine, peaks, window_scores
from edge.families.tspulse.windows import Geometry, run_rows, standardise
from edge.progress import Progress, ProgressBar
from edge.tasks import TaskRequest, TaskResult

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN / "tspulse"))
import recipe  # noqa: E402

FAMILY, _ = find("tspulse")


def with_recipe_weights(folder: Path, config: dict[str, object], states: str) -> EagerSession:
    """A session of a checkpoint in the authors' layout, filled as the goldens' recipe says."""
    names = json.loads((GOLDEN / "tspulse" / f"{states}_state_dict.json").read_text())
    save_file({name: recipe.weight(name, tuple(shape)) for name, shape, _ in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "tspulse"}))
    return EagerSession(FAMILY.load("tspulse", None, Source(checkpoint=folder)))


def demo(folder: Path, channels: int) -> EagerSession:
    """The demo for ``channels`` channels at once."""
    shipped = checkpoints.demo_folder("tspulse")
    config = json.loads((shipped / "config.json").read_text()) | {"num_input_channels": channels}
    (folder / "config.json").write_text(json.dumps(config))
    return EagerSession(FAMILY.load("tspulse", None, Source(checkpoint=shipped, config=folder / "config.json")))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "tspulse_tasks" / "pipelines.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def allhead(tmp_path_factory: pytest.TempPathFactory) -> EagerSession:
    return with_recipe_weights(
        tmp_path_factory.mktemp("allhead"), recipe.ALLHEAD | {"num_input_channels": 5}, "allhead"
    )


@pytest.fixture(scope="module")
def dualhead(tmp_path_factory: pytest.TempPathFactory) -> EagerSession:
    return with_recipe_weights(
        tmp_path_factory.mktemp("dualhead"), recipe.DUALHEAD | {"num_input_channels": 2}, "dualhead"
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> EagerSession:
    return with_recipe_weights(tmp_path_factory.mktemp("cls"), recipe.CLS, "cls")


@pytest.fixture(scope="module")
def demo1(tmp_path_factory: pytest.TempPathFactory) -> EagerSession:
    return demo(tmp_path_factory.mktemp("demo1"), 1)


@pytest.fixture(scope="module")
def demo5(tmp_path_factory: pytest.TempPathFactory) -> EagerSession:
    return demo(tmp_path_factory.mktemp("demo5"), 5)


def write(path: Path, values: np.ndarray, names: str = "") -> Path:
    """A CSV of ``values`` [rows, columns], with a time column; NaN becomes an empty cell."""
    columns = names.split(",") if names else [f"c{index}" for index in range(values.shape[1])]
    lines = [",".join(["time", *columns])]
    for row, cells in enumerate(values):
        lines.append(",".join([f"t{row}", *("" if np.isnan(cell) else repr(float(cell)) for cell in cells)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def do(task: str, session: EagerSession, request: TaskRequest, progress: Progress | None = None) -> TaskResult:
    return FAMILY.tasks()[task].run(session, request, progress or Progress())


@pytest.mark.parametrize("columns", [1, 2])
def test_anomaly_scores_are_those_of_ibms_pipeline(
    golden: dict[str, np.ndarray], allhead: EagerSession, columns: int
) -> None:
    series = standardise(golden[f"anomaly{columns}/series"].astype(np.float64))[0]
    geometry = Geometry.of(allhead, "reconstruct")
    assert (geometry.context, geometry.channels, geometry.patch, geometry.mixes) == (512, 5, 8, False)
    modes = ("time", "fft", "forecast")
    raw = window_scores(allhead.run, series, geometry, modes, 32, Progress())
    for name, chosen in {mode: (mode,) for mode in modes}.items() | {"all": modes}.items():
        score = combine({mode: raw[mode] for mode in chosen}, series, geometry, 32, 8)
        np.testing.assert_allclose(score, golden[f"anomaly{columns}/{name}"], atol=2e-5, err_msg=name)


def test_an_anomaly_task_from_file_to_file(
    golden: dict[str, np.ndarray], allhead: EagerSession, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.csv", golden["anomaly1/series"], "temperature")
    output, plot = tmp_path / "out.csv", tmp_path / "out.png"
    request = TaskRequest(csv=source, output=output, plot=plot, modes=("forecast",), top=3)
    result = do("anomaly", allhead, request)
    scored = read_csv(output, ["temperature", "anomaly_score"])
    np.testing.assert_allclose(scored.values[:, 1], golden["anomaly1/forecast"], atol=2e-5)
    rows, before = output.read_text().splitlines(), source.read_text().splitlines()
    assert rows[0] == "time,temperature,anomaly_score"
    assert [row.rsplit(",", 1)[0] for row in rows[1:]] == before[1:]
    assert plot.read_bytes().startswith(b"\x89PNG") and result.written == (output, plot)
    assert result.values["modes"] == ["forecast"]
    first = result.values["top"][0]
    assert first["row"] == int(np.argmax(golden["anomaly1/forecast"]))
    assert result.lines[1].startswith(f"  row {first['row']} (t{first['row']}): 1.000")
    assert len(result.lines) == 4


def test_fillings_are_those_of_ibms_pipeline(
    golden: dict[str, np.ndarray], dualhead: EagerSession, tmp_path: Path
) -> None:
    holed, expected = golden["impute/holed"], golden["impute/filled"]
    request = TaskRequest(csv=write(tmp_path / "in.csv", holed, "a,b"), output=tmp_path / "out.csv")
    result = do("impute", dualhead, request)
    filled = read_csv(tmp_path / "out.csv").values
    # Seven digits in the file, float32 in the model, values up to 100 in the second column.
    np.testing.assert_allclose(filled, expected, rtol=1e-6, atol=3e-5)
    known = ~np.isnan(holed)
    assert np.array_equal(filled[known], holed[known])
    assert result.values["filled"] == int((~known).sum()) > 100
    before = (tmp_path / "in.csv").read_text().splitlines()
    after = (tmp_path / "out.csv").read_text().splitlines()
    assert len(before) == len(after)
    assert all(row in after for row in before if not row.endswith(",") and ",," not in row)


def test_windows_without_holes_are_left_out(dualhead: EagerSession, tmp_path: Path) -> None:
    values = recipe.series("few", 1, 700, 2)[0].astype(np.float64)
    values[20, 0] = np.nan
    before = dualhead.calls
    do("impute", dualhead, TaskRequest(csv=write(tmp_path / "in.csv", values), output=tmp_path / "out.csv"))
    assert dualhead.calls - before == 11  # 21 windows hold row 20, two at a time


def test_nothing_to_fill(dualhead: EagerSession, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", recipe.series("whole", 1, 512, 1)[0].astype(np.float64))
    before = dualhead.calls
    result = do("impute", dualhead, TaskRequest(csv=source, output=tmp_path / "out.csv"))
    assert dualhead.calls == before
    assert (tmp_path / "out.csv").read_text() == source.read_text()
    assert "nothing is missing" in result.lines[0]


def test_classes_are_those_of_ibms_model(classifier: EagerSession, tmp_path: Path) -> None:
    with np.load(GOLDEN / "tspulse" / "classification.npz") as stored:
        series, expected, logits = stored["past_values"][:2], stored["argmax"][:2], stored["prediction_outputs"][:2]
    source = write(tmp_path / "in.csv", series.reshape(-1, 3).astype(np.float64))
    result = do("classify", classifier, TaskRequest(csv=source, output=tmp_path / "out.csv"))
    windows = result.values["windows"]
    assert [window["class"] for window in windows] == expected.tolist()
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    np.testing.assert_allclose([window["probabilities"] for window in windows], chances, atol=1e-4)
    assert (windows[1]["first"], windows[1]["last"]) == (512, 1023)
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "first_row,last_row,class,p0,p1,p2,p3,p4"


def sensor(rows: int, seed: int = 0) -> np.ndarray:
    """A machine's daily pattern with noise, [rows]."""
    time = np.arange(rows)
    noise = np.random.default_rng(seed).standard_normal(rows)
    return 20 + 3 * np.sin(2 * np.pi * time / 48) + 1.5 * np.sin(2 * np.pi * time / 16 + 1) + 0.15 * noise


@pytest.mark.parametrize(("kind", "place"), [("spike", 570), ("level", 560), ("flat", 570)])
def test_the_demo_finds_what_was_put_in(demo5: EagerSession, tmp_path: Path, kind: str, place: int) -> None:
    series = sensor(640)
    if kind == "spike":
        series[place : place + 2] += 9
        extent = 2
    elif kind == "level":
        series[place : place + 30] += 6
        extent = 30
    else:
        series[place : place + 24] = series[place]
        extent = 24
    result = do("anomaly", demo5, TaskRequest(csv=write(tmp_path / "in.csv", series[:, None]), top=1))
    found = result.values["top"][0]["row"]
    assert place - 12 <= found <= place + extent + 12, found


def test_the_demo_fills_better_than_a_line(demo5: EagerSession, tmp_path: Path) -> None:
    series = sensor(600, seed=3)
    holed = series.copy()
    for start in (100, 260, 420):
        holed[start : start + 12] = np.nan
    do("impute", demo5, TaskRequest(csv=write(tmp_path / "in.csv", holed[:, None]), output=tmp_path / "out.csv"))
    filled, hole = read_csv(tmp_path / "out.csv").values[:, 0], np.isnan(holed)
    line = np.interp(np.arange(600), np.flatnonzero(~hole), holed[~hole])
    error, plain = (np.mean((guess[hole] - series[hole]) ** 2) for guess in (filled, line))
    assert error < 0.6 * plain
    assert error < 0.4 * np.mean((series[~hole].mean() - series[hole]) ** 2)


def test_search_finds_where_a_piece_was_cut(demo5: EagerSession, tmp_path: Path) -> None:
    long = np.cumsum(np.random.default_rng(2).standard_normal((1400, 2)), axis=0)
    reference = write(tmp_path / "long.csv", long, "a,b")
    query = write(tmp_path / "piece.csv", long[317:829] * 40 + 7, "a,b")
    request = TaskRequest(csv=query, reference=reference, top=2, output=tmp_path / "out.csv")
    result = do("search", demo5, request)
    best, second = result.values["matches"]
    assert (best["first"], best["last"]) == (317, 828) and best["distance"] < 0.05 * second["distance"]
    assert abs(best["first"] - second["first"]) >= 200
    distances = read_csv(tmp_path / "out.csv", ["distance"]).values[:, 0]
    assert np.flatnonzero(~np.isnan(distances)).tolist() == sorted([317, second["first"]])


def test_channels_side_by_side_change_nothing(demo1: EagerSession, demo5: EagerSession) -> None:
    rows = np.stack([standardise(sensor(512, seed)[:, None])[0][:, 0] for seed in range(7)])
    observed = np.random.default_rng(1).random(rows.shape) > 0.2
    for entry, output in (("impute", "reconstruction_outputs"), ("embed", "register_embedding")):
        one = run_rows(demo1.run, entry, rows, observed, 1, [output])[output]
        five = run_rows(demo5.run, entry, rows, observed, 5, [output])[output]
        assert one.shape == five.shape and len(one) == 7
        np.testing.assert_allclose(one, five, atol=2e-4)


class Recorder(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.bars: list[list[int]] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[ProgressBar]:
        steps = [total, 0]
        self.bars.append(steps)

        class Counter(ProgressBar):
            def advance(self, count: int = 1) -> None:
                steps[1] += count

        yield Counter()


def test_progress_ends_where_it_said(demo5: EagerSession, tmp_path: Path) -> None:
    recorder = Recorder()
    values = sensor(560)[:, None]
    do("anomaly", demo5, TaskRequest(csv=write(tmp_path / "a.csv", values), modes=("forecast",)), recorder)
    values[10:530] = np.nan
    request = TaskRequest(csv=write(tmp_path / "b.csv", values), output=tmp_path / "c.csv")
    do("impute", demo5, request, recorder)
    assert recorder.bars == [[48, 48], [49, 49]]
    assert len(recorder.warnings) == 1 and "a gap of 520 rows" in recorder.warnings[0]


def test_peaks_keep_their_distance() -> None:
    score = np.zeros(100)
    score[[10, 12, 50, 90]] = [0.9, 1.0, 0.5, 0.7]
    assert peaks(score, 3, 8) == [12, 90, 50]
    assert peaks(score, 50, 40) == [12, 90]


def test_a_quiet_series_is_not_called_anomalous(allhead: EagerSession) -> None:
    geometry = Geometry.of(allhead, "reconstruct")
    series = np.random.default_rng(0).standard_normal((600, 1))
    quiet = {"time": np.linspace(0, 1e-3, 88)}
    assert combine(quiet, series, geometry, 32, 1).max() == pytest.approx(0.2)
    loud = {"time": np.append(np.linspace(0, 1e-3, 87), 5.0)}
    assert combine(loud, series, geometry, 32, 1).max() == pytest.approx(1.0)


def holed(rows: int, columns: int = 1) -> np.ndarray:
    values = recipe.series("refused", 1, rows, columns)[0].astype(np.float64)
    values[5, 0] = np.nan
    return values


@pytest.mark.parametrize(
    ("task", "rows", "said"),
    [
        ("anomaly", 512, "has 512 rows of data but an anomaly score with a context of 512 needs at least 513"),
        ("anomaly", -600, "line 7, column 'c0' is missing .*--task impute"),
        ("impute", -511, "has 511 rows of data but imputation with a context of 512 needs at least 512"),
        ("search", 511, "needs at least 512"),
        ("search", -600, "--task impute"),
    ],
)
def test_series_that_are_refused(demo1: EagerSession, tmp_path: Path, task: str, rows: int, said: str) -> None:
    values = holed(abs(rows))
    source = write(tmp_path / "in.csv", np.nan_to_num(values) if rows > 0 else values)
    with pytest.raises(InputError, match=said):
        do(task, demo1, TaskRequest(csv=source, reference=source, output=tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("anomaly", {"modes": ("fourier",)}, "there is no anomaly mode 'fourier': choose from time, fft, forecast"),
        ("anomaly", {"aggregation_length": 30}, "multiple of 8 from 8 to 512, not 30"),
        ("anomaly", {"aggregation_length": 520}, "multiple of 8 from 8 to 512, not 520"),
        ("anomaly", {"smoothing": 0}, "smoothing length"),
        ("anomaly", {"csv": None}, "--csv"),
        ("impute", {"output": None}, "-o"),
        ("search", {"reference": None}, "--reference"),
    ],
)
def test_requests_that_are_refused(
    demo1: EagerSession, tmp_path: Path, task: str, change: dict[str, object], said: str
) -> None:
    source = write(tmp_path / "in.csv", np.nan_to_num(holed(520)))
    given = {"csv": source, "output": tmp_path / "out.csv", "reference": source} | change
    with pytest.raises(EdgeError, match=said):
        do(task, demo1, TaskRequest(**given))


def test_heads_and_columns_that_are_not_there(dualhead: EagerSession, classifier: EagerSession, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", np.nan_to_num(holed(520, 2)))
    with pytest.raises(InputError, match="no head for the mode 'forecast': choose from time"):
        do("anomaly", dualhead, TaskRequest(csv=source, modes=("forecast",)))
    with pytest.raises(InputError, match=r"takes 3 channels but .* has 2 columns"):
        do("classify", classifier, TaskRequest(csv=source))
    other = write(tmp_path / "other.csv", np.nan_to_num(holed(520, 3)))
    with pytest.raises(InputError, match=r"2 columns of numbers and .*other.csv has 3"):
        do("search", dualhead, TaskRequest(csv=source, reference=other))
    empty = holed(520, 2)
    empty[:, 1] = np.nan
    (tmp_path / "in.csv").write_text(write(tmp_path / "in.csv", empty).read_text())
    with pytest.raises(InputError, match=r"column 'c1' of .* has no value at all"):
        do("impute", dualhead, TaskRequest(csv=source, columns=("c0", "c1"), output=tmp_path / "out.csv"))


def test_a_model_that_mixes_channels_wants_its_own_number(tmp_path: Path) -> None:
    shipped = json.loads((checkpoints.demo_folder("tspulse") / "config.json").read_text())
    config = shipped | {"mode": "mix_channel", "num_input_channels": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    session = EagerSession(FAMILY.load("tspulse", None, Source(config=tmp_path / "config.json", random_seed=0)))
    three = write(tmp_path / "three.csv", holed(513, 3))
    with pytest.raises(InputError, match=r"mixes 2 channels but .* has 3 columns of numbers: choose 2"):
        do("impute", session, TaskRequest(csv=three, output=tmp_path / "out.csv"))
    request = TaskRequest(csv=three, columns=("c0", "c2"), output=tmp_path / "out.csv")
    assert do("impute", session, request).values["filled"] == 1
    assert session.calls == 2
