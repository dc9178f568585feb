"""The command line: ``main`` turns every EdgeError into one sentence and exit status 2.

Exit status: 0; 2 for anything refused or failed, with one sentence on stderr; 130 after Ctrl-C. A traceback is shown
only with ``EDGE_DEBUG=1``. Nothing heavy is imported before a command's body runs, so that ``edge --help`` answers at
once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType

from edge.errors import EdgeError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
TERMINATED = 143  # 128 + SIGTERM


def main() -> None:
    """The ``edge`` program."""
    signal.signal(signal.SIGTERM, _terminate)
    if not debugging():
        # Destructors of third parties that stumble over each other on the way out have nothing to say to the user.
        sys.unraisablehook = _say_nothing
    try:
        status = invoke(sys.argv[1:])
    except KeyboardInterrupt:  # before there was a command
        status = fail("interrupted.", INTERRUPTED)
    if _reader_left():
        # What is still buffered goes nowhere; the interpreter's own last flush must not complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; every error becomes one sentence on stderr."""
    import typer

    from edge.cli.app import app

    if not debugging():
        # Third parties' deprecations are for developers; what the user should know goes through Progress.warn.
        warnings.simplefilter("ignore")
    try:
        status = app(args=list(arguments) or ["--help"], prog_name="edge", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:  # what typer makes of KeyboardInterrupt
            return fail("interrupted; nothing was left half done.", INTERRUPTED)
        return status if isinstance(status, int) else 0
    except EdgeError as error:
        return fail(str(error), error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted; nothing was left half done.", INTERRUPTED)
    except BrokenPipeError as error:
        return 0 if _reader_left() else fail(unexpected(error), EdgeError.exit_status)
    except SystemExit as leaving:
        # typer meets a broken pipe, whichever it was, by leaving with 1.
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        return 0 if _reader_left() else fail(unexpected(leaving.__context__), EdgeError.exit_status)
    except typer.TyperException as error:
        return fail(f"{error.format_message().rstrip('.')} (see `{_command(error)} --help`).", EdgeError.exit_status)
    except Exception as error:
        return fail(unexpected(error), EdgeError.exit_status)


def unexpected(error: Exception) -> str:
    """The sentence for an error that edge did not foresee."""
    what = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    short = what if len(what) <= 300 else f"{what[:297]}..."
    return f"something unforeseen went wrong ({short}); run it again with EDGE_DEBUG=1 and report what it prints."


def fail(sentence: str, status: int) -> int:
    """Print one sentence on stderr (below the traceback of the error in flight, when debugging); returns ``status``."""
    if debugging() and sys.exc_info()[0] is not None:
        traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        print(f"edge: {one_line(sentence)}", file=sys.stderr, flush=True)
    return status


def debugging() -> bool:
    return os.environ.get("EDGE_DEBUG", "") not in ("", "0")


def one_line(text: str) -> str:
    return " ".join(text.split())


def _command(error: Exception) -> str:
    """The command that a usage error belongs to: "edge export"."""
    return getattr(getattr(error, "ctx", None), "command_path", None) or "edge"


def _say_nothing(unraisable: object) -> None:
    pass


def _terminate(signum: int, frame: FrameType | None) -> None:
    # As an exception, so that temporary files go as they do after Ctrl-C.
    raise SystemExit(TERMINATED)


def _reader_left() -> bool:
    """Whether whoever read our stdout is gone, as in `edge models | head -1`: no error of ours."""
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no poll here, or no real stdout (a test's, say)
        return False
    return any(event & select.POLLERR for _, event in watch.poll(0))
