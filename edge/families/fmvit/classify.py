"""A picture through the classifier: its likeliest classes and how sure the model is of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edge.families.fmvit.config import FMViTConfig
from edge.families.fmvit.pictures import fit, normalise
from edge.imagefile import read_image
from edge.progress import Progress
from edge.tasks import Task, TaskRequest, TaskResult, softmax

if TYPE_CHECKING:
    from edge.runtimes.base import Session


class Classify(Task):
    name: ClassVar[str] = "classify"
    summary: ClassVar[str] = "tell what a picture shows"
    needs: ClassVar[tuple[str, ...]] = ("classify",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        config = msgspec.convert(dict(session.manifest.config), FMViTConfig)
        picture = read_image(request.image.image)
        chances = softmax(session.run("classify", {"image": normalise(fit(picture, config), config)})["logits"][0])
        likeliest = np.argsort(-chances, kind="stable")[: request.top]
        names = [config.labels[index] if config.labels else f"class {index}" for index in likeliest]
        lines = [f"{name}: {chances[index]:.1%}" for name, index in zip(names, likeliest, strict=True)]
        found = [
            {"class": int(index), "label": name, "probability": round(float(chances[index]), 6)}
            for name, index in zip(names, likeliest, strict=True)
        ]
        return TaskResult(lines=tuple(lines), values={"image": str(request.image.image), "classes": found})
