"""What a board is and has, asked with one small shell script: no Python needed there.

``probe`` returns ``BoardFacts``. Nothing is timed and nothing is written on the device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from edge.devices.base import Device
from edge.devices.host import MachineFacts, name_cpu, parse_cpuinfo
from edge.devices.script import run_script
from edge.errors import UsageError

#: Interpreters to look for, the first that exists is taken; "~" is the device's home. The first is where
#: docs/raspberry-pi.md puts a virtual environment, since Raspberry Pi OS lets pip install nothing outside of one.
PYTHONS = ("~/edge-venv/bin/python3", "python3")
#: Distributions that decide how a bundle can be run there.
PACKAGES = ("numpy", "msgspec", "onnxruntime", "torch", "executorch", "apache-tvm")
#: Programs that the scripts of edge use and a stripped system may lack.
TOOLS = ("flock", "timeout", "sha256sum", "dd", "wc", "df")

_PYTHON = """
import json, platform
from importlib import metadata
found = {}
for name in NAMES:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps({"version": platform.python_version(), "packages": found}))
""".replace("NAMES", repr(PACKAGES))

# $1: the folder asked for or "", $2: the script for Python, $3 and on: interpreters to try.
_SCRIPT = """
dir=$1 code=$2
shift 2
[ -n "$dir" ] || dir=${XDG_CACHE_HOME:-$HOME/.cache}/edge/device
echo "folder=$dir"
echo "system=$(uname -s) $(uname -r)"
echo "arch=$(uname -m)"
echo "page_size=$(getconf PAGESIZE 2>/dev/null || getconf PAGE_SIZE 2>/dev/null)"
echo "glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null)"
[ -e /system/bin/linker64 ] && echo "bionic=$(getprop ro.build.version.sdk 2>/dev/null)"
for f in /lib/ld-musl-*; do [ -e "$f" ] && echo "musl=$f"; done
echo "cores=$(nproc 2>/dev/null)"
[ -r /proc/device-tree/model ] && echo "model=$(tr -d '\\000' < /proc/device-tree/model)"
command -v getprop >/dev/null 2>&1 && echo "model=$(getprop ro.product.manufacturer) $(getprop ro.product.model)"
while read -r key value rest; do [ "$key" = MemTotal: ] && echo "ram_kb=$value"; done < /proc/meminfo
near=$dir
while [ -n "$near" ] && [ ! -d "$near" ]; do near=${near%/*}; done
echo "free=$(df -Pk "${near:-/}" 2>/dev/null | tail -n 1)"
for t in flock timeout sha256sum dd wc df; do command -v $t >/dev/null 2>&1 || echo "lacks=$t"; done
at() { case $1 in "~/"*) command -v "$HOME/${1#"~/"}";; *) command -v "$1";; esac; }
tell() { echo "python=$1"; echo "about=$("$1" -c "$code" 2>/dev/null | tail -n 1)"; }
for p; do p=$(at "$p" 2>/dev/null) && tell "$p" && break; done
echo "cpuinfo"
cat /proc/cpuinfo
"""


class PythonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The device's interpreter, and which of ``PACKAGES`` it has, by version."""

    path: str
    version: str
    packages: Mapping[str, str]


class BoardFacts(MachineFacts, frozen=True, kw_only=True):
    """One device. ``folder`` is where edge keeps what it pushes.

    ``libc`` is glibc, musl or bionic with its version ("2.36"; Android's API level for bionic; "" where unknown).
    """

    address: str
    libc_version: str
    folder: str
    free_bytes: int
    lacks: tuple[str, ...]
    python: PythonFacts | None

    @property
    def triple(self) -> str:
        """What native code for it is compiled for: aarch64-linux-gnu, aarch64-linux-musl, aarch64-linux-android."""
        return f"{self.arch}-linux-{ {'glibc': 'gnu', 'bionic': 'android'}.get(self.libc, self.libc)}"


def probe(device: Device) -> BoardFacts:
    """Ask ``device``. Raises LostError, or DeviceError where it has no usable shell."""
    folder = os.environ.get("EDGE_DEVICE_DIR") or device.folder
    if folder and not folder.startswith("/"):
        raise UsageError(f"EDGE_DEVICE_DIR is {folder!r}: give a folder of the device from its root on (/data/edge).")
    asked = os.environ.get("EDGE_DEVICE_PYTHON")
    output = run_script(device, _SCRIPT, folder, _PYTHON, *((asked,) if asked else PYTHONS), timeout=90.0)
    return parse(device.address, output.decode("utf-8", "replace"))


def parse(address: str, text: str) -> BoardFacts:
    """``_SCRIPT``'s output: key=value lines, then /proc/cpuinfo after a line "cpuinfo"."""
    head, _, cpuinfo = text.partition("\ncpuinfo\n")
    values: dict[str, str] = {}
    lacks = []
    for line in head.splitlines():
        key, _, value = line.partition("=")
        if key == "lacks":
            lacks.append(value)
        else:
            values[key] = value.strip()
    processors = parse_cpuinfo(cpuinfo)
    arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(values.get("arch", ""), values.get("arch", ""))
    cpu, features = name_cpu(arch, processors)
    libc, libc_version = _libc(values)
    named = processors[0].get("model name", "") if processors else ""
    return BoardFacts(
        address=address,
        system=values.get("system", ""),
        arch=arch,
        model=values.get("model", "") or named,
        cpu=cpu,
        features=features,
        cores=_number(values.get("cores")) or len(processors) or 1,
        ram_mb=_number(values.get("ram_kb")) // 1024,
        page_size=_number(values.get("page_size")),
        libc=libc,
        libc_version=libc_version,
        folder=values.get("folder", ""),
        free_bytes=_free(values.get("free", "")),
        lacks=tuple(lacks),
        python=_python(values),
    )


def _libc(values: Mapping[str, str]) -> tuple[str, str]:
    if "bionic" in values:
        return "bionic", values["bionic"]
    if values.get("glibc", "").startswith("glibc "):
        return "glibc", values["glibc"].split()[1]
    return ("musl", "") if "musl" in values else ("unknown", "")


def _free(line: str) -> int:
    """Bytes available, from the last line of `df -Pk`: device, blocks, used, available, capacity, mount point."""
    words = line.split()
    percent = next((index for index, word in enumerate(words) if word.endswith("%")), 0)
    return _number(words[percent - 1]) * 1024 if percent else 0


def _python(values: Mapping[str, str]) -> PythonFacts | None:
    try:
        found = msgspec.json.decode(values.get("about", ""), type=dict[str, object])
        return msgspec.convert({"path": values.get("python", ""), **found}, PythonFacts)
    except (msgspec.DecodeError, msgspec.ValidationError):  # none there, or it does not run
        return None


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
