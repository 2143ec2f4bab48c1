"""The errors a user can cause. All derive from `IRVerifyError`; the command line prints one line and exits with 1.

An error says what was expected, what was got, where it happened, and what to do about it. It is never a verdict.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence


class IRVerifyError(Exception):
    """Root of every error that input, usage or the outside world can cause.

    `message` says what went wrong; `where` names the file, node or line; `hint` says what to do. `str()` joins the
    three.
    """

    kind = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(self._text())

    def _text(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message}{advice}"

    def within(self, place: str) -> IRVerifyError:
        """The same error, with an outer place (a file, say) in front of its own."""
        error = copy.copy(self)
        error.where = place if self.where is None else f"{place}: {self.where}"
        error.args = (error._text(),)
        return error


class UsageError(IRVerifyError):
    """An option, a pipeline text or a combination of arguments that makes no sense."""

    kind = "usage"


class FileError(IRVerifyError):
    """A file that is missing, unreadable, unwritable or broken."""

    kind = "file"


class ParseError(IRVerifyError):
    """Text that does not follow its grammar: IR text, a pipeline, VNN-LIB."""

    kind = "parse"


class GraphError(IRVerifyError):
    """A graph that breaks an invariant of the IR: types, order, names, parameters."""

    kind = "graph"


class ShapeError(GraphError):
    """A value whose shape or type is not what its user expects."""

    kind = "shape"


class RegionError(IRVerifyError):
    """An input region that is empty, crossed, not finite or of the wrong shape."""

    kind = "region"


class PropertyError(IRVerifyError):
    """A property that does not fit the network or cannot be expressed."""

    kind = "property"


class ImportMismatch(IRVerifyError):
    """An imported graph that computes something else than its source model."""

    kind = "mismatch"


class SolverError(IRVerifyError):
    """A solver that failed, crashed or ran out of memory: nothing was decided."""

    kind = "solver"


class TrainingError(IRVerifyError):
    """Training that cannot go on: a loss or weights that are not finite."""

    kind = "training"


class UnsupportedError(IRVerifyError):
    """Something outside what irverify supports. `items` lists all offenders, not only the first."""

    kind = "unsupported"

    def __init__(
        self, message: str, *, items: Sequence[str] = (), where: str | None = None, hint: str | None = None
    ) -> None:
        self.items = tuple(items)
        listing = "".join(f"\n  - {item}" for item in self.items)
        super().__init__(f"{message}{':' if listing else ''}{listing}", where=where, hint=hint)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or of torch says that memory has run out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
