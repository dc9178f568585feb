"""`python -m edge.devices.worker`: the process that measures, on this machine or on a device.

In: one request as a line of JSON on standard input. Out: messages on standard output, a JSON object a line: ``Began`` for each
phase, ``Sampled`` for each finished block of timed runs, at last the reply or ``Failed`` with one sentence; exit status
0 or 2. Whatever a runtime prints goes to standard error, so that it cannot garble the answer.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import msgspec

from edge.devices import harness, running, verifying
from edge.devices.messages import Began, Failed, Message, ProfileRequest, Reply, Request, RoofFound
from edge.devices.running import RunRequest
from edge.devices.verifying import VerifyRequest
from edge.errors import EdgeError


def main() -> int:
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # C code prints to descriptor 1

    def send(message: Message) -> None:
        channel.write(msgspec.json.encode(message) + b"\n")
        channel.flush()

    try:
        request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
        send(_answer(request, send))
    except EdgeError as error:
        send(Failed(kind=type(error).__name__, sentence=str(error)))
        return error.exit_status
    except Exception as error:
        # The parent shows one sentence; the traceback stays on standard error for who looks for it.
        traceback.print_exc()
        detail = " ".join(str(error).split())[:300]
        sentence = f"the measuring process failed with {type(error).__name__}: {detail}."
        send(Failed(kind="DeviceError", sentence=sentence))
        return EdgeError.exit_status
    return 0


def _answer(request: Request, send: Callable[[Message], None]) -> Reply:
    def began(phase: str) -> None:
        send(Began(phase=phase))

    if isinstance(request, ProfileRequest):
        return harness.profile(request, began, sampled=send)
    if isinstance(request, VerifyRequest):
        return verifying.verify(request, began)
    if isinstance(request, RunRequest):
        return running.run(request, began)
    from edge.devices import roofline

    began("roofline")
    return RoofFound(roof=roofline.machine_roof(request.threads))


if __name__ == "__main__":
    sys.exit(main())
