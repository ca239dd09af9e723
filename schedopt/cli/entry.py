"""The entry point: runs a command and turns every error into one line and a code."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence

from schedopt.cli import (
    measuring_commands,  # noqa: F401 (it adds commands)
    runtime_commands,  # noqa: F401 (its commands join the app)
)
from schedopt.cli.commands import app
from schedopt.cli.exits import DONE, INTERRUPTED, REFUSED
from schedopt.cli.output import complain
from schedopt.errors import SchedOptError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; None means the arguments of the process."""
    gc.set_threshold(500_000)  # op graphs are many objects, none of them garbage
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is printed escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return REFUSED
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(args=None if arguments is None else list(arguments), prog_name="schedopt")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE
    except SchedOptError as error:
        complain(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        complain(f"{error.filename}: {reason}" if error.filename else reason)
    except MemoryError:
        complain("out of memory; a smaller instance or a lower --max-ops would do")
    except KeyboardInterrupt:
        complain("interrupted; nothing was written")
        return INTERRUPTED
    return REFUSED


def _discard_output() -> None:
    """Whoever read our output has left; keep the interpreter's last flush quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
