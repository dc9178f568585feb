"""Answering a worker's request on a device at the other end of a transport, the same for all of them.

Ask what the device is, choose the route, take the board's lock, push what is not there yet, run the worker under a guard
that ends it when nobody listens any more, and read its messages.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edge.bundle import read_manifest
from edge.devices import elf
from edge.devices.base import Device
from edge.devices.conversation import Link, converse
from edge.devices.harness import ProfileRequest, Reply, Request, RoofRequest
from edge.devices.local import worker_environment
from edge.devices.lock import SILENCE, locked
from edge.devices.routes import bundle_files, bundle_folder, choose_route, lacking
from edge.devices.watching import watched
from edge.errors import DeviceError, UnsupportedError
from edge.progress import Progress

# $1: SILENCE; the rest is the worker. The request is one line; after it only signs of life come. When they end, the
# worker ends: a board must not go on measuring for somebody who left. Its status is the script's.
_GUARD = """
silence=$1
shift
exec 3<&0
IFS= read -r request <&3 || exit 1
printf '%s' "$request" | "$@" 3<&- &
worker=$!
( while [ "$(timeout "$silence" dd bs=1 count=1 2>/dev/null <&3)" = . ]; do :; done; kill -9 $worker ) >/dev/null 2>&1 &
watch=$!
wait $worker
status=$?
kill $watch 2>/dev/null
exit $status
"""


def answer(device: Device, request: Request, timeout: float, progress: Progress) -> Reply:
    """See ``Device.work``."""
    progress.stage(f"connect to {device.address}")
    facts = device.facts()
    if facts.lacks:
        raise DeviceError(f"{device.address} lacks {', '.join(facts.lacks)}: install coreutils and util-linux, or BusyBox, there.")
    if isinstance(request, RoofRequest):
        root, manifest = None, None
        if lack := lacking(facts, None):
            raise UnsupportedError(f"the roofline is measured in Python: {lack}")
    else:
        root = Path(request.bundle)
        manifest = read_manifest(root)
        for record in manifest.files:
            elf.check(root / record.path, facts, record.path)
    route = choose_route(facts, manifest)
    with locked(device, facts.folder):
        device.push(route.files, route.folder, progress)
        if root is not None and manifest is not None and not isinstance(request, RoofRequest):
            progress.stage(f"push {root.name}")
            folder = bundle_folder(facts, root)
            device.push(bundle_files(root, manifest), folder, progress)
            request = msgspec.structs.replace(request, bundle=folder)
        environment = {**route.environment, **worker_environment(request)}
        pairs = [f"{name}={value}" for name, value in environment.items()]
        script = "; ".join(line.strip() for line in _GUARD.strip().splitlines()).replace("&; ", "& ")
        command = device.command(("sh", "-c", script, "edge", str(SILENCE), "env", *pairs, *route.argv))
        link = Link(address=device.address, lost=device.lost, alive=device.alive)

        def measure() -> Reply:
            return converse(command, os.environ, request, timeout, progress, link)

        if route.name == "native" and isinstance(request, ProfileRequest):
            return watched(device, request, measure, progress)
        return measure()
