"""What a user is told when something goes wrong, and the exit code that goes with it.

0: a verdict was given, or what was asked for was done. 1: usage, input, something unsupported, reading or writing. 2: a
fault in irverify. 130: interrupted (143: terminated). A failure is never a verdict.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

from irverify.cli.streams import encode, note, write
from irverify.errors import IRVerifyError, is_out_of_memory

DEBUG = "IRVERIFY_DEBUG"


@dataclass(frozen=True)
class Failure:
    """One failure: its kind (those of `irverify.errors` and a few more), the message, the exit code.

    `quiet` failures are not spoken of; `details` go into JSON beside kind and message.
    """

    kind: str
    message: str
    code: int = 1
    quiet: bool = False
    details: Mapping[str, object] = field(default_factory=dict)
    error: BaseException | None = None


def failure_of(error: BaseException) -> Failure:
    """What an exception that left a command means."""
    if isinstance(error, KeyboardInterrupt):
        number = int(error.args[0]) if error.args else int(signal.SIGINT)
        word = "terminated" if number == signal.SIGTERM else "interrupted"
        return Failure("interrupted", word, 128 + number)
    if isinstance(error, IRVerifyError):
        details = {"where": error.where, "hint": error.hint, "items": list(getattr(error, "items", ()))}
        known = {name: value for name, value in details.items() if value}
        return Failure(error.kind, str(error), details=known, error=error)
    if isinstance(error, BrokenPipeError):
        return Failure("io", "the reader of the output has gone", quiet=True)
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return Failure("io", f"{error.strerror or error}{place}", error=error)
    if is_out_of_memory(error):
        return Failure("memory", f"out of memory ({str(error) or 'no details'})", error=error)
    return _of_command_line(error) or Failure(
        "internal",
        f"internal fault: {type(error).__name__}: {error}\n"
        f"Nothing was decided. Please report this with the command line; {DEBUG}=1 shows where it happened.",
        code=2,
        error=error,
    )


def report(failure: Failure, as_json: bool) -> int:
    """Tells the user, and returns the exit code. Nothing goes to stdout but, with `as_json`, one object."""
    if failure.error is not None and os.environ.get(DEBUG):
        note("".join(traceback.format_exception(failure.error)).rstrip())
    if failure.quiet:
        return failure.code
    note(f"error: {failure.message}" if failure.code == 1 else failure.message)
    if as_json:
        try:
            write(encode("error", {"error": {"kind": failure.kind, "message": failure.message, **failure.details}}))
            sys.stdout.flush()
        except (OSError, IRVerifyError):
            pass  # there is nobody to tell
    return failure.code


def _of_command_line(error: BaseException) -> Failure | None:
    """The failure that one of typer's own exceptions stands for; None for any other."""
    import typer

    if isinstance(error, typer.Exit):  # all has been said
        return Failure("exit", "", code=error.exit_code, quiet=True)
    if isinstance(error, typer.Abort):
        return Failure("interrupted", "interrupted", 130)
    click_exception = typer.BadParameter.__mro__[2]  # typer does not re-export the root of its usage errors
    if not isinstance(error, click_exception):
        return None
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "irverify"
    return Failure("usage", f"{message.rstrip('.')} (see {path} --help)")
