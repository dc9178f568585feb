"""An arm64 Debian in a folder, to run arm64 programs on this machine under emulation (qemu-user).

    python -m edge.devices.arm64root        # or `edge device root`: some 15 s, 150 MB to fetch, 300 MB on disk

Needs no root rights: apt fetches the packages (signatures checked, into folders of its own), dpkg-deb unpacks them, pip
fetches the wheels that a board would have. Nothing of it is installed on this machine, and none of the packages' own
scripts is run. The folder is ``$EDGE_ARM64_ROOT``, or one in edge's cache; it appears whole or not at all.

In ``boards/`` are /proc/cpuinfo and /sys as a Raspberry Pi 4 or 5 shows them, for libraries that choose kernels by them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from edge.bundle import storage_errors
from edge.cache import cache_dir, locked
from edge.devices.boards import write_boards
from edge.doctor import read_requirements
from edge.errors import DeviceError
from edge.progress import Progress

#: Debian 12, as Raspberry Pi OS of 2023 to 2025: glibc 2.36 and Python 3.11.
SUITE = "bookworm"
PYTHON = "3.11"
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: What a board has that edge's scripts, its Python and sshd need.
PACKAGES = (
    "coreutils", "dash", "grep", "sed", "mawk", "hostname", "libc-bin", "util-linux", "procps",
    "python3-minimal", "libpython3-stdlib", "openssh-server", "libstdc++6", "libgomp1",
)
#: adb's daemon for devices, first packaged in Debian 13; for tests of that transport.
ADBD_SUITE, ADBD_PACKAGES = "trixie", ("adbd", "coreutils", "dash", "util-linux", "grep", "sed", "libc-bin")
#: Wheels for the root's Python, in the versions that edge asks for.
WHEELS = ("numpy", "msgspec", "onnxruntime")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
#: Papers that nobody reads here.
LEFT_OUT = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*")
#: Counts changes to what is built.
EDITION = 1


def root_folder() -> Path:
    """Where the root is, or would be: ``$EDGE_ARM64_ROOT``, or a folder in edge's cache."""
    own = os.environ.get("EDGE_ARM64_ROOT")
    return Path(own).expanduser() if own else cache_dir() / "arm64"


def find_root(name: str = SUITE) -> Path | None:
    """The root if it has been built."""
    root = root_folder() / f"{name}-{EDITION}"
    return root if root.is_dir() else None


def lacking() -> str:
    """Why no root can be built here, with the next step; "" if one can."""
    missing = [program for program in ("apt-get", "dpkg-deb", "tar") if shutil.which(program) is None]
    if missing:
        return f"an arm64 system is built with Debian's {', '.join(missing)}, which this machine lacks: build it on Debian or Ubuntu"
    if not KEYRING.is_file():
        return f"{KEYRING} is missing, by which Debian's packages are checked: run `apt-get install debian-archive-keyring`"
    return ""


def build_root(progress: Progress | None = None) -> Path:
    """The root for boards, built if it is not there yet. Raises DeviceError if it cannot be."""
    return _build(SUITE, SUITE, PACKAGES, WHEELS, progress or Progress())


def build_phone(progress: Progress | None = None) -> Path:
    """A root with adb's daemon, for tests."""
    return _build("phone", ADBD_SUITE, ADBD_PACKAGES, (), progress or Progress())


def _build(name: str, suite: str, packages: Sequence[str], wheels: Sequence[str], progress: Progress) -> Path:
    if (found := find_root(name)) is not None:
        return found
    if why := lacking():
        raise DeviceError(f"{why}.")
    folder = root_folder()
    with storage_errors(str(folder)), locked(folder / f"{name}.lock"):  # two test processes want it at once
        if (found := find_root(name)) is not None:
            return found
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as scratch:
            root = Path(scratch) / "root"
            progress.stage(f"fetch arm64 packages of Debian {suite}")
            debs = _fetch(Path(scratch), suite, packages)
            progress.stage("unpack them")
            _unpack(debs, root)
            if wheels:
                progress.stage("fetch arm64 wheels")
                _wheels(Path(scratch), root, wheels)
            write_boards(root)
            root.rename(folder / f"{name}-{EDITION}")
    return folder / f"{name}-{EDITION}"


def _fetch(scratch: Path, suite: str, packages: Sequence[str]) -> list[Path]:
    """Download ``packages`` and what they depend on, by an apt with folders, sources and keys of its own."""
    apt = scratch / "apt"
    for name in ("etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "etc/sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    config = apt / "apt.conf"
    config.write_text(
        f'Dir "{apt}/";\nDir::Etc "etc";\nDir::State "state";\nDir::State::status "{apt}/status";\nDir::Cache "cache";\n'
        'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; };\nAPT::Install-Recommends "false";\n'
        'Acquire::Languages "none";\nAcquire::Retries "3";\nAPT::Sandbox::User "";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(config), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    _run(["apt-get", "-qq", "update"], environment)
    _run(["apt-get", "-qq", "-y", "--download-only", "install", *packages], environment)
    return sorted((apt / "cache/archives").glob("*.deb"))


def _unpack(debs: Sequence[Path], root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    excluded = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as packed:
            tar = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", *excluded, "-C", str(root), "-f", "-"]
            unpacked = subprocess.run(tar, stdin=packed.stdout, capture_output=True, check=False)
        if unpacked.returncode or packed.returncode:
            raise DeviceError(f"{deb.name} could not be unpacked ({unpacked.stderr.decode('utf-8', 'replace').strip()[:200]}): try again.")
    for name in ("proc", "sys", "dev", "tmp", "root", "run/sshd", "home/pi", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\npi:x:1000:1000:pi:/home/pi:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
    )
    (root / "etc/group").write_text("root:x:0:\npi:x:1000:\nnogroup:x:65534:\n")


def _wheels(scratch: Path, root: Path, names: Sequence[str]) -> None:
    wanted = {requirement.name: requirement.versions for requirement in read_requirements(metadata.requires("edge") or [])}
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms,
        "--python-version", PYTHON, "--implementation", "cp", "--dest", str(scratch / "wheels"),
        *(f"{name}{wanted.get(name, '')}" for name in names),
    ]
    _run(command, dict(os.environ))
    packages = root / "usr/local/lib" / f"python{PYTHON}" / "dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    for wheel in sorted((scratch / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600.0, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{command[0]} took more than ten minutes to fetch packages: check the network and try again.") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = lines[-1].strip()[:200].rstrip(".") if lines else "it says nothing"
        raise DeviceError(f"{Path(command[0]).name} could not fetch arm64 packages ({said}): check the network and try again.")


if __name__ == "__main__":
    print(build_root())
