"""A bundle measured by the demo app on a phone (examples/android), over adb.

The app is started with an intent (``am start``), measures what came with it or was imported, and writes what it found to
its folder on the shared storage, which adb's user may read. In: the device, the bundle's name in the app. Out: a
``Measurement``. Raises DeviceError where the app is not installed, refuses, or writes nothing.
"""

from __future__ import annotations

import time
import uuid

from edge.devices.base import Device
from edge.errors import DeviceError, InputError
from edge.measurement import Measurement
from edge.progress import Progress
from edge.report import jsonfile

PACKAGE = "edge.demo"
ACTIVITY = f"{PACKAGE}/.HeadlessActivity"
#: Where Android puts the folder that ``getExternalFilesDir`` gives an app.
RESULTS = f"/sdcard/Android/data/{PACKAGE}/files/profiles"
#: Between two looks for the result, in seconds; how many may find the app not running before that is believed.
PAUSE = 1.0
GONE = 5

_REFUSED, _NOT_YET, _ENDED = 3, 4, 5
# $1: the result's path without ending, $2: the app.
_LOOK = f"""
[ -e "$1.json" ] && exec cat "$1.json"
[ -e "$1.error" ] && cat "$1.error" && exit {_REFUSED}
command -v pidof >/dev/null 2>&1 && ! pidof "$2" >/dev/null && exit {_ENDED}
exit {_NOT_YET}
"""


def measure(
    device: Device, bundle: str, manifest_sha256: str, *, threads: int | None, runs: int, timeout: float, progress: Progress
) -> Measurement:
    """Have the app on ``device`` measure its bundle called ``bundle``, ``runs`` runs of each entry point.

    ``manifest_sha256`` is that of the bundle here: another one of the same name is refused. ``threads`` None leaves them to
    the app.
    """
    result = f"edge-{uuid.uuid4().hex}"
    progress.stage("the app measures")
    asked = ["--es", "bundle", bundle, "--ei", "iterations", str(runs), "--es", "result", result]
    if threads is not None:
        asked += ["--ei", "threads", str(threads)]
    # -S ends the app first: nothing else of it runs meanwhile, and an app that is open does not just come to the front.
    started = device.run(("am", "start", "-S", "-n", ACTIVITY, *asked))
    said = f"{started.output.decode('utf-8', 'replace')}\n{started.printed}"
    if started.status == 127 or "am: not found" in said:
        raise DeviceError(f"{device.address} has no `am`, so it is no Android: leave --app out.")
    if started.status or "Error" in said:
        why = next((line.strip() for line in said.splitlines() if "Error" in line), said.strip()[:200]).rstrip(".")
        raise DeviceError(
            f"{device.address} did not start the app ({why}): build it with `make -C examples/android apk` and `adb install` the APK."
        )
    try:
        raw = _wait(device, f"{RESULTS}/{result}", timeout)
    finally:
        device.run(("rm", "-f", f"{RESULTS}/{result}.json", f"{RESULTS}/{result}.error"))
    try:
        measured = jsonfile.decode(raw, "what the app wrote")
    except InputError as error:
        raise DeviceError(f"{device.address}: {error}") from error
    if measured.bundle.manifest_sha256 != manifest_sha256:
        raise DeviceError(
            f"the app on {device.address} has another bundle called {bundle} than the one here: build the app with this one, or import it there."
        )
    return measured


def _wait(device: Device, result: str, timeout: float) -> bytes:
    """What the app writes, when it is there."""
    until, gone = time.monotonic() + timeout, 0
    while time.monotonic() < until:
        time.sleep(PAUSE)
        looked = device.run(("sh", "-c", _LOOK, "look", result, PACKAGE))
        if looked.status == 0:
            return looked.output
        if looked.status == _REFUSED:
            sentence = looked.output.decode("utf-8", "replace").strip()
            raise DeviceError(f"the app on {device.address} did not measure: {sentence}")
        gone = gone + 1 if looked.status == _ENDED else 0
        if gone >= GONE:
            raise DeviceError(f"the app on {device.address} ended before it was done: look at `adb logcat` and try again.")
    raise DeviceError(
        f"the app on {device.address} wrote nothing within {timeout:.0f} s: unlock the phone, leave the app on its screen and try again."
    )
