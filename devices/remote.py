"""Answering a worker's request on a device at the other end of a transport, the same for all of them.

Ask what the device is, choose the route, take the board's lock, push what is not there yet, run the worker under a guard
that ends it when nobody listens any more, and read its messages.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from edge.bundle import read_manifest, sha256_file
from edge.devices.base import Device
from edge.devices.conversation import SILENT, Link, Pace, converse
from edge.devices.local import worker_environment
from edge.devices.lock import SILENCE, locked
from edge.devices.messages import ProfileRequest, Reply, Request, RoofRequest
from edge.devices.routes import Route, bundle_files, bundle_folder, check_loadable, choose_route, lacking
from edge.devices.running import Ran, RunRequest
from edge.devices.watching import watched
from edge.errors import DeviceError, UnsupportedError
from edge.progress import Progress

# $1: SILENCE; the rest is the worker. The request is a line; after it come signs of life ("."), and lines for the worker
# with a ":" in front. When they end, everything here ends: a board must not go on measuring for somebody who left. The
# first line through the pipe is whom to end when the worker is done. The worker's status is the script's. Where it was not the
# end but silence, @SILENT is the last word.
_GUARD = """
silence=$1
shift
exec 3<&0
IFS= read -r request <&3 || exit 1
life() { timeout "$silence" dd bs=1 count=1 2>/dev/null <&3; }
pass() { IFS= read -r line <&3; printf '%s\\n' "$line"; }
feed() { sh -c 'echo $PPID'; printf '%s\\n' "$request"; silent=$1
while c=$(life); do case $c in .) ;; :) pass ;; *) silent=; break ;; esac; done
[ -z "$silent" ] || echo "$silent" >&5
kill -9 0; }
work() { exec 4<&0 3<&-; IFS= read -r feeder; "$@" <&4 4<&- & worker=$!; wait $worker; status=$?; kill $feeder; exit $status; }
feed @SILENT 5>&2 2>/dev/null | work "$@"
"""


def answer(device: Device, request: Request, timeout: float, progress: Progress) -> Reply:
    """See ``Device.work``."""
    progress.stage(f"connect to {device.address}")
    facts = device.facts()
    if facts.lacks:
        raise DeviceError(f"{device.address} lacks {', '.join(facts.lacks)}: install coreutils and util-linux, or BusyBox, there.")
    if isinstance(request, RoofRequest):
        if lack := lacking(facts, None):
            raise UnsupportedError(f"it is measured in Python, and {lack}")
        route = choose_route(facts, None)
        with locked(device, facts.folder):
            device.push(route.files, route.folder, progress)
            return _ask(device, route, request, timeout, progress)
    root = Path(request.bundle)
    manifest = read_manifest(root)
    check_loadable(facts, root, manifest)
    route = choose_route(facts, manifest, root, own_tensors=isinstance(request, RunRequest))
    with locked(device, facts.folder):
        device.push(route.files, route.folder, progress)
        progress.stage(f"push {root.name}")
        folder = bundle_folder(facts, root)
        device.push(bundle_files(root, manifest), folder, progress)
        there = msgspec.structs.replace(request, bundle=folder)
        if isinstance(there, RunRequest):
            return _run(device, facts.folder, route, there, timeout, progress)
        if route.name == "native" and isinstance(there, ProfileRequest):
            paced = msgspec.structs.replace(there, paced=True)
            return watched(device, there, lambda pace: _ask(device, route, paced, timeout, progress, pace), progress)
        return _ask(device, route, there, timeout, progress)


def _ask(
    device: Device, route: Route, request: Request, timeout: float, progress: Progress, pace: Pace | None = None
) -> Reply:
    """Start the worker on the device, everything being there, and talk to it."""
    environment = {**route.environment, **worker_environment(request)}
    pairs = [f"{name}={value}" for name, value in environment.items()]
    script = "; ".join(line.strip() for line in _GUARD.strip().splitlines()).replace("&; ", "& ").replace("@SILENT", SILENT)
    command = device.command(("sh", "-c", script, "edge", str(SILENCE), "env", *pairs, *route.argv))
    link = Link(address=device.address, lost=device.lost, alive=device.alive)
    return converse(command, os.environ, request, timeout, progress, link, pace)


def _run(device: Device, base: str, route: Route, request: RunRequest, timeout: float, progress: Progress) -> Reply:
    """The user's tensors go there and the outputs come back; neither stays on the device."""
    folder, source = f"{base}/inputs", Path(request.inputs)
    name = sha256_file(source)[:32]
    there = msgspec.structs.replace(request, inputs=f"{folder}/{name}.npz", outputs=f"{folder}/{name}.out.npz")
    try:
        device.push({f"{name}.npz": source}, folder, progress)
        _ask(device, route, there, timeout, progress)
        device.pull(there.outputs, Path(request.outputs))
    finally:
        with contextlib.suppress(DeviceError):
            device.run(("rm", "-f", there.inputs, there.outputs))
    return Ran(outputs=request.outputs)
