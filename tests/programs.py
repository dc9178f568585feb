"""What the tests of static programs share: conversations with one, as an app on a phone has them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import Bundle


def program(bundle: Bundle, folder: Path, name: str = "model") -> Path:
    """The bundle's program, in ``folder`` with its weights, as one that runs."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "model"
    copy.write_bytes((bundle.path / name).read_bytes())
    copy.chmod(0o755)
    own = (bundle.path / name).parent / "weights.bin"
    (folder / "weights.bin").write_bytes((own if own.exists() else bundle.path / "weights.bin").read_bytes())
    return copy


def said(command: Sequence[str | Path], given: bytes) -> tuple[int, list[dict[str, Any]], list[np.ndarray]]:
    """Exit status, lines and tensors of a program that was started with ``given`` as all of its input."""
    done = subprocess.run(command, input=given, capture_output=True, timeout=240)
    rest, lines, tensors = done.stdout, [], []
    while rest:
        line, _, rest = rest.partition(b"\n")
        lines.append(json.loads(line))
        for output in lines[-1].get("outputs", ()) if "ok" in lines[-1] else ():
            tensors.append(np.frombuffer(rest[: output["bytes"]], output["dtype"]).reshape(output["shape"]))
            rest = rest[output["bytes"] :]
    return done.returncode, lines, tensors


def request(fields: Mapping[str, Any], *arrays: np.ndarray) -> bytes:
    return json.dumps(fields).encode() + b"\n" + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
