"""A real sshd on loopback for one test run, with keys of its own, and the EDGE_SSH that reaches it and nothing else."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Where Debian puts it: not on everyone's PATH.
SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if os.access(path, os.X_OK)), None)


def lacking() -> str:
    """Why no sshd can be started here; "" if one can."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        return "OpenSSH's client and server are not installed"
    return ""


@dataclass(frozen=True)
class Server:
    """``address`` for --device, ``client`` for EDGE_SSH, ``folder`` with keys and logs, the daemon's ``pid``."""

    address: str
    client: str
    folder: Path
    port: int
    pid: int

    def through(self, port: int) -> str:
        """The address by another port, a relay's: the host key stays the same."""
        return f"{self.address.rpartition(':')[0]}:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_keys(folder: Path) -> None:
    """A host key, a user's key that is let in, and a known_hosts with the first."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    kind, key, *_ = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"test-board {kind} {key}\n")
    (folder / "ssh_config").write_text(
        f"Host *\n  HostKeyAlias test-board\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )


def server_options(folder: str, port: int) -> list[str]:
    """sshd's own options, the folder being as sshd sees it."""
    return [
        "-f", "/dev/null", "-D", "-e", "-p", str(port), "-h", f"{folder}/host",
        "-o", "ListenAddress=127.0.0.1", "-o", f"AuthorizedKeysFile={folder}/authorized_keys", "-o", "StrictModes=no",
        "-o", "UsePAM=no", "-o", "PasswordAuthentication=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes",
        "-o", "MaxStartups=100",
    ]


@contextlib.contextmanager
def serve(folder: Path, command: Sequence[str] | None = None, user: str | None = None, extra: Sequence[str] = ()) -> Iterator[Server]:
    """Start sshd (or ``command``, which starts one with keys in ``folder``), wait until it answers, end it after."""
    port = free_port()
    make_keys(folder)
    assert SSHD is not None
    Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
    full = [*(command or [SSHD]), *server_options(str(folder), port), *extra]
    with (folder / "log").open("wb") as log, subprocess.Popen(full, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as process:
        try:
            _wait(process, port, folder / "log")
            yield Server(
                address=f"ssh://{user or getpass.getuser()}@127.0.0.1:{port}",
                client=f"ssh -F {folder}/ssh_config",
                folder=folder,
                port=port,
                pid=process.pid,
            )
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"sshd ended: {log.read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.1)
    raise RuntimeError("sshd does not answer")
