"""What edge's Python API makes of static bundles, written down for the app's Java, which starts the same programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import edge
from edge.bundle import Bundle
from edge.csvfile import read_csv
from edge.families.fmvit.classify import Classify
from edge.families.fmvit.pictures import render
from edge.families.interformer import features, interact
from edge.families.interformer.clicks import Click
from edge.families.plm.generate import Generate
from edge.families.tspulse.anomaly import Anomaly
from edge.progress import Progress
from edge.runtimes.base import Session
from edge.tasks import ImageRequest, TaskRequest, TextRequest

PROMPTS = ("The with statement", "Return a new list. The argument must be an iterable of strings, and each of them is split at every line end. The default")
CLICKS = (Click(40, 50, True), Click(90, 20, True), Click(45, 60, False))


def write_models(folder: Path, bundles: Mapping[str, Path]) -> None:
    """Add to ``folder`` what the ``bundles``, by family, give: all samples, and each one's task."""
    outputs = {}
    told: dict[str, object] = {"bundles": {name: str(path) for name, path in bundles.items()}}
    for name, path in bundles.items():
        session = edge.load(path, threads=1)
        for entry in session.manifest.entries:
            for index, (inputs, _) in enumerate(Bundle(path, session.manifest).samples(entry.name)):
                for output, value in session.run(entry.name, inputs).items():
                    outputs[f"{name}/{entry.name}/{index}/{output}"] = np.array(value)
        if name in TASKS:
            told[name] = TASKS[name](session, folder)
    np.savez(folder / "outputs.npz", **outputs)
    (folder / "models.json").write_text(json.dumps(told))


def _chat(session: Session, folder: Path) -> list[object]:
    told = []
    for prompt in PROMPTS:
        for chat in (False, True):
            request = TextRequest(prompt=prompt, max_new_tokens=24, chat=chat)
            found = Generate().run(session, TaskRequest(text=request), Progress()).values
            told.append({"prompt": prompt, "chat": chat, "tokens": found["tokens"], "text": found["text"]})
    return told


def _scores(session: Session, folder: Path) -> object:
    time = np.arange(540)
    series = np.sin(time / 8) + 0.05 * np.random.default_rng(0).standard_normal((2, len(time)))
    series[0, 520:530] = 0.2  # a sensor that is stuck for a while
    source = folder / "series.csv"
    np.savetxt(source, series.T, header="level,other", comments="", delimiter=",")
    Anomaly().run(session, TaskRequest(csv=source, output=folder / "scored.csv"), Progress())
    scored = read_csv(folder / "scored.csv", ("anomaly_score",))
    return {"scores": scored.values[:, 0].tolist()}


def _cut(session: Session, folder: Path) -> object:
    """Clicks on what the bundle has features of: at the model's own size, and as if the user's picture were larger."""
    arrays, told = {}, []
    inputs, _ = Bundle(session.root, session.manifest).samples("click")[0]
    found = {name: value for name, value in inputs.items() if name != "shares"}
    generator = np.random.default_rng(5)
    for name, seen, size in (("small", (128, 128), (128, 128)), ("large", (128, 100), (256, 200))):
        picture = generator.integers(0, 256, (*seen, 3), dtype=np.uint8)
        encoded = interact.Encoded(picture, size, (128, 128), found)
        features.write(folder / f"{name}-features.npz", encoded, session.manifest)
        going = interact.Interaction(session.run, encoded, 3)
        for index, click in enumerate(CLICKS):
            arrays[f"{name}/mask{index}"] = going.click(click)
        told.append(name)
    np.savez(folder / "masks.npz", **arrays)
    return {"pictures": told, "clicks": [{"x": one.x, "y": one.y, "positive": one.positive} for one in CLICKS]}


def _look(session: Session, folder: Path) -> object:
    from PIL import Image

    digit = np.zeros((8, 8))
    digit[1:7, 3:5] = 16  # a one
    picture = render(digit, 150, 3)
    path = folder / "digit.png"
    Image.fromarray(picture).save(path)
    np.savez(folder / "digit.npz", picture=picture)
    found = Classify().run(session, TaskRequest(image=ImageRequest(image=path), top=5), Progress())
    return found.values["classes"]


TASKS = {"plm": _chat, "tspulse": _scores, "interformer": _cut, "fmvit": _look}
