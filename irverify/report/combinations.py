"""Two sweeps side by side as a table (paper 3, app. D, table 7)."""

from __future__ import annotations

from collections.abc import Sequence

from irverify.certify.combination import Combination
from irverify.report.tables import table

COLUMNS = (
    "eps", "images", "first", "second", "either", "both", "only first", "only second", "neither",
    "correct by both", "either of these",
)  # fmt: skip
ONE = "Two methods on one network: what either certifies is certified.\n"
TWO = (
    "Two networks: certified by either of them is a statement about the pair, no certified accuracy of a network or\n"
    "of an ensemble.\n"
)


def combination_table(combinations: Sequence[Combination], first: str, second: str) -> str:
    """Certified images: a row for each radius, under the names of the two; what that claims behind it."""
    title = f"certified images; first: {first}, second: {second}"
    rows = [_row(combination) for combination in combinations]
    note = ONE if all(combination.one_network for combination in combinations) else TWO
    return f"{table(COLUMNS, rows, COLUMNS, title).render()}\n{note}"


def _row(combination: Combination) -> tuple[str, ...]:
    said = combination.complementarity()
    counts = (
        said.first, said.second, said.either, said.both, said.only_first, said.only_second, said.neither,
        said.correct_both,
    )  # fmt: skip
    shares = [_share(count, said.n) for count in counts]
    return f"{combination.first.eps:g}", str(said.n), *shares, _share(said.either_of_correct_both, said.correct_both)


def _share(count: int, of: int) -> str:
    return f"{count} ({100 * count / of:.2f} %)" if count else "0"
