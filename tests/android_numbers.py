"""What edge's Python computes, written down for the app's Java to compute again: JSON and .npz files in one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
from tiny import make_bundle

from edge.bundle import MANIFEST, open_bundle, sha256_file
from edge.checkpoints import demo_folder
from edge.csvfile import read_csv
from edge.errors import InputError
from edge.families.fmvit.config import FMViTConfig
from edge.families.fmvit.pictures import fit
from edge.families.fmvit.pictures import normalise as normalise_fmvit
from edge.families.interformer import clicks, images
from edge.families.interformer.features import identity
from edge.families.plm.generate import choose
from edge.families.plm.vocabulary import Vocabulary
from edge.families.tspulse.anomaly import combine, peaks
from edge.families.tspulse.windows import Geometry, standardise
from edge.manifest import Manifest
from edge.measurement import Latency
from edge.spec import TensorSpec
from edge.tasks import softmax

#: Scripts, marks that NFC composes, blanks of all kinds, digits of other scripts, characters of four bytes.
LETTERS = "abcABC xyz  .,'\"\n\r\t0123456789äöüßéñçœøåλωжди中文字한글日本語กขค٣४😀👩🏽"
LETTERS += "\u0301\u0308\u00a0\u2003\u3000\u0085\u200b\u2028()[]{}<>|_-+*/=&%$#@!?~^`\\"
TEXTS = (
    "", " ", "\n", "  \n  x", "The with statement", "def f(x):\n    return x ** 2\n",
    "I'LL don't WE'RE 's 'S '\u017f", "e\u0301 vs é, \u1e9b\u0323",
    "<|im_start|>user\nhi<|im_end|>", "<|im_start|><|endoftext|>", "<|im_start", "a<|endoftext|> b", "123 4567", "x\u00a0\u00a0y\u3000z", "tail   ",
    "\r\n\r\n  \r x", "!!!???...\n\n", "price: 3.50€ — “quoted”", "ünïcödé", "\u0000\u0001 control", "😀😀 👩🏽‍🚀", "한국어 日本語 中文",
)  # fmt: skip
CSVS = (
    "a,b\n1,2\n3,4\n", "1,2\n3,4\n", "time;level\n2024-01-01;1.5\n2024-01-02;-2e3\n", "x\ty\n1\t\n.5\tnan\n", "0,1,2\n5,6,7\n8,9,10\n",
    "\ufeffname,v\nfoo,1\nbar,2\n", '"a, b","c ""d"""\n1,2\n"3",4\n', "v\n1\n\n2\n   \n3\n", "index,v\n0,1\n1,2\n", "v\r\n1\r\n2\r\n", "a,b\n1,+2.\n3, 4 \n",
    "when,what\nx,1_000\ny,2\n", '"two\nlines",v\nx,1\ny,2\n', "v\n1\n2", "unnamed: 0,level\n0,3\n1,4\n", "a,b\n,1\nNA,2\n", "1\n2\n3\n",
    "a,b\n1,2\n3\n", "a,b\n1,x\n", "v\n1\n1e40\n", "v\ninf\n1\n", "", "v\n", "name\nx\ny\n", 'a\n"1\n', 'a\n"1"x\n', "v\n1\n0x10\n", "v\n1\n2f\n", "v\n1\n1e\n",
)  # fmt: skip


def write_numbers(folder: Path) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(11)
    _tokens(folder, generator)
    _choices(folder, generator)
    _pictures(folder, generator)
    _labels(folder, generator)
    _tables(folder)
    _anomalies(folder, generator)
    _latencies(folder, generator)
    _bundles(folder)
    return folder


def _save(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _tokens(folder: Path, generator: np.random.Generator) -> None:
    source = demo_folder("plm") / "tokenizer.json"
    _save(folder / "tokenizer.json", json.loads(source.read_text(encoding="utf-8")))
    vocabulary = Vocabulary(source, 2048)
    random = ["".join(generator.choice(list(LETTERS), size=generator.integers(1, 40))) for _ in range(200)]
    texts = [*TEXTS, *random]
    _save(folder / "texts.json", [{"text": text, "ids": vocabulary.encode(text), "turn": vocabulary.user_turn(text)} for text in texts])
    sequences = [vocabulary.encode(text) for text in texts if text]
    # Ids in any order split characters anywhere; those from 2048 on are nobody's.
    sequences += [generator.integers(0, 2051, size=30).tolist() for _ in range(100)]
    streams = []
    for ids in sequences:
        step = vocabulary.stream()
        streams.append({"ids": ids, "pieces": [step(one) for one in ids]})
    _save(folder / "streams.json", streams)


def _choices(folder: Path, generator: np.random.Generator) -> None:
    rows = [(4 * generator.standard_normal(50)).astype(np.float32) for _ in range(20)]
    rows.append(np.array([1, 3, 3, 2, 3], np.float32))
    chances = [softmax(row) for row in rows]
    _save(folder / "chances.json", [
        {"logits": row.tolist(), "chances": chance.tolist(), "order": np.argsort(-chance, kind="stable").tolist()}
        for row, chance in zip(rows, chances, strict=True)
    ])  # fmt: skip
    draws = []
    for seed, row in enumerate(rows * 4):
        temperature, top_p = ((0.0, 1.0), (0.7, 0.9), (1.3, 1.0), (1.0, 0.3))[seed % 4]
        # numpy's choice draws one number, this one.
        draw = float(np.random.default_rng(seed).random())
        token = choose(row, temperature, top_p, np.random.default_rng(seed))
        draws.append({"logits": row.tolist(), "temperature": temperature, "top_p": top_p, "draw": draw, "token": token})
    _save(folder / "draws.json", draws)


def _pictures(folder: Path, generator: np.random.Generator) -> None:
    config = msgspec.json.decode((demo_folder("fmvit") / "config.json").read_bytes(), type=FMViTConfig)
    arrays = {}
    for height, width in ((64, 64), (200, 333), (97, 40), (31, 517)):
        name = f"picture{height}"
        # Colours that change slowly, and some noise: nothing that a filter's overshoot would clip.
        waves = np.sin(np.arange(height)[:, None, None] / 9 + np.arange(width)[None, :, None] / 13 + np.arange(3))
        picture = np.round(128 + 60 * waves + generator.normal(0, 8, (height, width, 3))).astype(np.uint8)
        fitted = images.fitted(picture, 128, 128)
        arrays[name] = picture
        arrays[f"fmvit/{name}"] = normalise_fmvit(fit(picture, config), config)
        arrays[f"fitted/{name}"] = fitted
        arrays[f"interformer/{name}"] = images.padded(images.normalise(fitted), 128, 128)
        for crop in (1.0, 0.875):
            arrays[f"square{crop}/{name}"] = fit(picture, msgspec.structs.replace(config, crop=crop))
    np.savez(folder / "pictures.npz", **arrays)


def _labels(folder: Path, generator: np.random.Generator) -> None:
    labels, arrays, told = clicks.unknown(96, 128), {}, []
    for step in range(6):
        click = clicks.Click(int(generator.integers(0, 128)), int(generator.integers(0, 96)), step % 3 != 2)
        radius = 3 + step
        labels = clicks.with_click(labels, click, radius)
        mask = generator.random((96, 128)) < 0.5
        arrays[f"clicked{step}"], arrays[f"shares{step}"], arrays[f"mask{step}"] = labels, clicks.shares(labels), mask
        labels = clicks.with_prediction(labels, mask)
        arrays[f"predicted{step}"] = labels
        told.append({"x": click.x, "y": click.y, "positive": click.positive, "radius": radius})
    small = generator.standard_normal((1, 24, 32)).astype(np.float32)
    arrays |= {"small": small[0], "large": images.enlarged(small, 96, 128)[0], "odd": images.enlarged(small, 37, 61)[0]}
    np.savez(folder / "labels.npz", **arrays)
    _save(folder / "clicks.json", {"clicks": told})


def _tables(folder: Path) -> None:
    cases: list[dict[str, object]] = []
    for text in CSVS:
        path = folder / "it.csv"
        path.write_bytes(text.encode())
        try:
            table = read_csv(path)
        except InputError as error:
            cases.append({"text": text, "error": str(error).replace(str(path), "it.csv")})
            continue
        values = [[None if np.isnan(value) else float(value) for value in column] for column in table.values.T]
        cases.append({"text": text, "names": table.names, "values": values, "lines": table.lines})
    _save(folder / "csv.json", cases)


def _anomalies(folder: Path, generator: np.random.Generator) -> None:
    cases = []
    for columns, aggregation, smoothing, quiet in ((1, 32, 8, False), (2, 16, 1, False), (3, 64, 7, False), (1, 32, 8, True)):
        series = generator.standard_normal((700, columns)).cumsum(0)
        series[:, -1] = 5.0 if columns == 3 else series[:, -1]  # a column that is constant
        scaled = standardise(series)[0]
        geometry = Geometry(512, 1, False, 8)
        size = 1e-6 if quiet else 0.3
        raw = {mode: size * generator.random(700 - 512) ** 4 for mode in ("time", "fft", "forecast")}
        combined = combine(raw, scaled, geometry, aggregation, smoothing)
        cases.append({
            "series": series.T.tolist(), "standardised": scaled.T.tolist(), "aggregation": aggregation, "smoothing": smoothing,
            "raw": {mode: score.tolist() for mode, score in raw.items()}, "combined": combined.tolist(),
            "top": 4, "peaks": peaks(combined, 4, aggregation),
        })  # fmt: skip
    _save(folder / "anomaly.json", cases)


def _latencies(folder: Path, generator: np.random.Generator) -> None:
    cases = [generator.lognormal(5, 1, count).tolist() for count in (1, 2, 3, 10, 99, 1000)]
    _save(folder / "latencies.json", [{"durations": one, "latency": msgspec.to_builtins(Latency.of(one))} for one in cases])


def _bundles(folder: Path) -> None:
    made = make_bundle(folder / "tiny.edge")
    # Numbers as msgspec writes them, and an order that is not the alphabet's: what an identity has to bear.
    config = {"z": 1e-6, "a": {"y": [1, 2.5, -3e22], "b": None}, "text": 'quo"te, ünï {[', "m": True, "n": 1e16}
    _rewrite(made.path, msgspec.structs.replace(made.manifest, config=config))
    opened = open_bundle(made.path)
    entry = opened.manifest.entries[0]
    inputs, _ = opened.samples(entry.name)[0]
    _save(folder / "tiny.json", {
        "model": "tiny", "identity": identity(opened.manifest), "manifest_sha256": sha256_file(made.path / MANIFEST),
        "artifact_bytes": opened.artifact_bytes, "sum": float(inputs["x"].sum()),
    })  # fmt: skip
    heads = ("reconstruction_outputs", "reconstructed_ts_from_fft", "forecast_output")
    window = TensorSpec(name="past_values", dtype="float32", shape=(1, 512, 1))
    shapes = {"tspulse": (("reconstruct", window, heads),), "fmvit": (("classify", None, ("logits",)),)}
    for name, entries in shapes.items():
        settings = json.loads((demo_folder(name) / "config.json").read_text())
        records = tuple(
            msgspec.structs.replace(
                entry, name=method, inputs=(taken or entry.inputs[0],),
                outputs=tuple(TensorSpec(name=head, dtype="float32", shape=(1,)) for head in given),
            )
            for method, taken, given in entries
        )  # fmt: skip
        (folder / f"{name}.edge").mkdir()
        shutil.copy(made.path / MANIFEST, folder / f"{name}.edge")
        _rewrite(folder / f"{name}.edge", msgspec.structs.replace(opened.manifest, family=name, config=settings, entries=records))


def _rewrite(bundle: Path, manifest: Manifest) -> None:
    (bundle / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
