"""A sweep that goes on where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from irverify.certify.certifier import Source
from irverify.certify.outcome import Outcome, Sweep
from irverify.certify.store import Store
from irverify.errors import UsageError


def begun(eps: float, indices: Sequence[int]) -> Sweep:
    """A sweep of which nothing is known. UsageError for an image that is named twice."""
    wanted = tuple(int(index) for index in indices)
    if len(set(wanted)) < len(wanted):
        twice = next(index for place, index in enumerate(wanted) if index in wanted[:place])
        raise UsageError(f"expected every image once, got {twice} more than once")
    return Sweep(eps, wanted)


def resume(sweep: Sweep, store: Store | None) -> None:
    """Takes over what is stored of a sweep."""
    if store is not None:
        sweep.found.update({index: stored.outcome for index, stored in store.stored(sweep.eps, sweep.indices).items()})
        sweep.seconds = store.seconds(sweep.eps)


def still_open(sweep: Sweep, store: Store | None, limit: float | None) -> list[int]:
    """The images to ask within a time limit: those without an outcome first, then those whose outcome may change."""
    stored = {} if store is None else store.stored(sweep.eps, sweep.indices)
    again = [index for index in sweep.indices if index in stored and not stored[index].final(limit)]
    return [*(index for index in sweep.indices if index not in sweep.found), *again]


def proceed(
    sweep: Sweep, indices: Sequence[int], source: Source, store: Store | None, limit: float | None
) -> Iterator[Outcome]:
    """Decides these images within a time limit for each. Every outcome is in the store before it is yielded."""
    last = time.perf_counter()
    for outcome in source(sweep.eps, indices):
        now = time.perf_counter()
        if store is not None:
            store.record(sweep.eps, outcome, limit, now - last)
        sweep.found[outcome.index] = outcome
        sweep.seconds, last = sweep.seconds + now - last, now
        yield outcome
