"""Taking back what was pushed to a device: bundles, edge's own files, runners, parts of files, the lock."""

from __future__ import annotations

from edge.devices.base import Device
from edge.devices.lock import locked
from edge.devices.script import run_script

#: All that edge makes in its folder; whatever else is there is not ours to delete.
MADE = ("bundles", "worker", "runner", "inputs")

# $1: the folder, then the names in it. Prints how many kilobytes they took, all together.
_CLEAN = """
cd "$1" 2>/dev/null || { echo 0; exit 0; }
folder=$1
shift
k=0
for f; do [ -e "./$f" ] && s=$(du -sk "./$f") && k=$((k + ${s%%[!0-9]*})); rm -rf "./$f" || exit 1; done
rm -f ./lock
cd / && rmdir "$folder" 2>/dev/null
echo $k
"""


def clean(device: Device) -> int:
    """Remove what edge pushed to ``device``; returns the bytes that it took. DeviceError if the device is in use."""
    facts = device.facts()
    if device.run(("test", "-d", facts.folder)).status:
        return 0
    with locked(device, facts.folder):
        output = run_script(device, _CLEAN, facts.folder, *MADE, timeout=600.0)
    return int(output.split()[-1]) * 1024
