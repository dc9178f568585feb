"""``ssh://user@host[:port]``: a board that OpenSSH reaches, with the user's own config, agent and known hosts.

``host`` may be a name from ~/.ssh/config. Nothing is ever typed: ssh runs in batch mode and takes keys. A host whose key
is not known yet is refused, whatever the config says. ``EDGE_SSH`` names another ssh program, with options
(``EDGE_SSH="ssh -F my_config"``).

One connection carries all commands and stays for ``KEEP`` seconds after the last (ssh's ControlMaster), unless the
user's config shares connections in its own way.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge.devices.base import FORMS, Device
from edge.errors import UsageError

#: A user and a host as they may stand in an address: neither can be taken for an option, or for anything by a shell.
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z_][A-Za-z0-9._-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
#: Seconds: to connect, between questions whether the board is still there, and how many of them may go unanswered.
CONNECT, ASK, UNANSWERED = 15, 15, 4
OPTIONS = (
    "-T", "-x",
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=yes",
    "-o", "ClearAllForwardings=yes",
    "-o", f"ConnectTimeout={CONNECT}",
    "-o", f"ServerAliveInterval={ASK}",
    "-o", f"ServerAliveCountMax={UNANSWERED}",
)
#: Seconds that an unused connection is kept for the next command, and what its socket's path may be long at most (a
#: socket's name has 108 bytes, and ssh adds a hash and a suffix to the folder's).
KEEP = 20
LONGEST_FOLDER = 40
#: ssh's own exit status for anything that is not the command's.
FAILED = 255


class SshDevice(Device):
    def __init__(self, address: str) -> None:
        super().__init__(address)
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match["port"] or 22) < 65536:
            raise UsageError(f"{address!r} is no address of a board: write {FORMS['ssh']}.")
        host = match["host"].strip("[]")
        self._where = f"{match['user']}@{host}" if match["user"] else host
        self._port = match["port"]
        self._to = (*(("-p", self._port) if self._port else ()), "--", self._where)

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        name, *own = program()
        # Of two values for an option ssh takes the first, so that nothing loosens OPTIONS.
        # What follows the host goes, joined with spaces, to the user's shell there: one quoted string survives that.
        return (name, *OPTIONS, *own, *_shared((name, *own, *self._to)), *self._to, shlex.join(argv))

    def lost(self, status: int, printed: str) -> str | None:
        if status != FAILED:
            return None
        by_hand = shlex.join((*program(), *(part for part in self._to if part != "--")))
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in printed:
            return (
                "shows another host key than it used to: if you did not reinstall it, someone else may be answering; "
                f"connect with `{by_hand}` and read what it says"
            )
        if "Host key verification failed" in printed or "host key is known" in printed:
            return (
                f"has a host key that is not known here: connect once with `{by_hand}` and compare the fingerprint with "
                "the board's (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there)"
            )
        if "Permission denied" in printed:
            return f"refuses to let you in: put your key there with `ssh-copy-id`, and try `{by_hand}`"
        return f"cannot be reached, or the connection to it was lost{said(printed)}: try `{by_hand}`"


def program() -> tuple[str, ...]:
    """ssh, or what EDGE_SSH names."""
    return tuple(shlex.split(os.environ.get("EDGE_SSH") or "ssh"))


@functools.cache
def _shared(command: tuple[str, ...]) -> tuple[str, ...]:
    """Options that let commands share one connection; none where the user's config has its own, or no folder for it."""
    name, *rest = command
    try:
        known = subprocess.run((name, "-G", *rest), capture_output=True, text=True, timeout=20.0, stdin=subprocess.DEVNULL)
        folder = _socket_folder()
    except (OSError, subprocess.TimeoutExpired):
        return ()
    keys = {line.split(" ", 1)[0]: line for line in known.stdout.lower().splitlines()}
    if folder is None or keys.get("controlmaster", "controlmaster false") != "controlmaster false" or "controlpath" in keys:
        return ()
    return ("-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o", f"ControlPersist={KEEP}")


def _socket_folder() -> Path | None:
    """A folder that nobody else may enter, or None: whoever reaches a socket in it is logged in on the board."""
    folder = Path(tempfile.gettempdir()) / f"edge-ssh-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private and len(str(folder)) <= LONGEST_FOLDER else None


def said(printed: str) -> str:
    """The last line that a program printed, in parentheses."""
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
    return f" ({lines[-1][:200].rstrip('.')})" if lines else ""


DEVICE = SshDevice
