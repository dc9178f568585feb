"""A relay on loopback between ssh and sshd that can cut the connection: the cable that somebody trips over."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Passes bytes between clients and the port ``server``; ``sent`` counts those to the server, by connection."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent: list[int] = []
        #: Cut the first connection that has sent so many bytes, once; ``for_good``: and let no other through.
        self.cut_after: int | None = None
        self.for_good = False
        self._cuts = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """End every connection at once."""
        self._cuts += 1

    def refuse(self) -> None:
        """End every connection, and let no other through."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.refuse()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.sent.append(0)
                self._threads.append(threading.Thread(target=self._pass, args=(client, len(self.sent) - 1)))
                self._threads[-1].start()

    def _pass(self, client: socket.socket, index: int) -> None:
        cuts = self._cuts
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._server)) as server:
            other = {client: server, server: client}
            while self._cuts == cuts:
                for source in select.select(tuple(other), (), (), 0.02)[0]:
                    if not (data := source.recv(2**14)):
                        return
                    other[source].sendall(data)
                    if source is client:
                        self._count(index, len(data))

    def _count(self, index: int, size: int) -> None:
        self.sent[index] += size
        if self.cut_after is not None and self.sent[index] >= self.cut_after:
            self.cut_after = None
            self.refuse() if self.for_good else self.cut()


@contextlib.contextmanager
def relay(server: int) -> Iterator[Relay]:
    made = Relay(server)
    try:
        yield made
    finally:
        made.close()
