"""The annotation page's server: this machine only, one picture, one person.

Requests that change something must be JSON from the page itself: another site open in the same browser can reach a
loopback address too, so the Host and Origin headers are checked.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np

from edge.errors import EdgeError, UsageError
from edge.families.interformer.clicks import Click
from edge.families.interformer.images import TINT, mask_png, png
from edge.families.interformer.interact import Interaction
from edge.files import write_atomically

HOST = "127.0.0.1"
#: A request is a click: anything longer is none.
LONGEST = 4096
_HTML = Path(__file__).parent / "page.html"
_POLICY = "default-src 'self'; img-src 'self' blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class State(msgspec.Struct, frozen=True):
    """What the page shows beside the picture; ``version`` changes whenever the mask does."""

    clicks: tuple[Click, ...]
    pixels: int
    version: int
    saved: str | None = None
    error: str | None = None


@dataclass
class Page:
    """The interaction behind the page, and what the requests do to it."""

    interaction: Interaction
    picture: np.ndarray  # RGB uint8, as large as the clicks' coordinates
    destination: Path
    version: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def state(self, saved: str | None = None, error: str | None = None) -> State:
        mask = self.interaction.mask
        return State(tuple(self.interaction.clicks), int(mask.sum()), self.version, saved, error)

    def act(self, path: str, body: bytes) -> State | None:
        """Do what was asked; None for a path that does not exist. What went wrong is in the state's ``error``."""
        with self._lock:
            saved = None
            try:
                match path:
                    case "/click":
                        self.interaction.click(msgspec.json.decode(body, type=Click))
                    case "/undo":
                        self.interaction.undo()
                    case "/reset":
                        self.interaction.reset()
                    case "/save":
                        write_atomically(self.destination, mask_png(self.interaction.mask))
                        saved = str(self.destination)
                    case _:
                        return None
            except (EdgeError, msgspec.DecodeError, UnicodeDecodeError) as error:
                return self.state(error=str(error))
            self.version += path != "/save"
            return self.state(saved)

    def overlay(self) -> bytes:
        """The mask as a tinted, half-transparent PNG."""
        with self._lock:
            mask = self.interaction.mask
        layer = np.zeros((*mask.shape, 4), np.uint8)
        layer[mask] = (*TINT.astype(np.uint8), 140)
        return png(layer)


def serve(page: Page, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; ``ready`` is told the address. UsageError for a port that is taken."""
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, page))
    except OSError as error:
        raise UsageError(f"port {port} cannot be used ({error.strerror}): choose another with --port, or 0 for a free one.") from error
    server.daemon_threads = True
    with server, contextlib.suppress(KeyboardInterrupt):
        ready(f"http://{HOST}:{server.server_port}/")
        server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, page: Page, *arguments: object) -> None:
        self.page = page
        super().__init__(*arguments)  # type: ignore[arg-type]  # what socketserver passes

    def do_GET(self) -> None:
        if not self._local():
            return
        match self.path.partition("?")[0]:
            case "/":
                self._answer(_HTML.read_bytes(), "text/html; charset=utf-8")
            case "/picture.png":
                self._answer(png(self.page.picture), "image/png")
            case "/overlay.png":
                self._answer(self.page.overlay(), "image/png")
            case "/mask.png":
                self._answer(mask_png(self.page.interaction.mask), "image/png")
            case "/state":
                self._answer(msgspec.json.encode(self.page.state()), "application/json")
            case _:
                self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        if self._local():
            self._act()

    def _act(self) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        state = self.page.act(self.path, self.rfile.read(int(length)))
        if state is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        status = HTTPStatus.OK if state.error is None else HTTPStatus.BAD_REQUEST
        self._answer(msgspec.json.encode(state), "application/json", status)

    def _local(self) -> bool:
        """Whether the request names this machine: a foreign name that was pointed here does not."""
        name = self.headers.get("Host", "").rpartition(":")[0]
        if name in (HOST, "localhost"):
            return True
        self._refuse(HTTPStatus.FORBIDDEN)
        return False

    def _answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the page was closed
            self.wfile.write(body)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_error(status)

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal is the user's."""
