"""Two sweeps side by side, counted by hand."""

from __future__ import annotations

import pytest

from irverify.certify import Combination, Outcome, Sweep
from irverify.certify.combination import Complementarity
from irverify.certify.outcome import CLEAN, Status
from irverify.errors import UsageError
from irverify.report.combinations import combination_table


def outcome(index: int, status: Status, method: str, predicted: int = 1) -> Outcome:
    wrong = status == "falsified" and predicted != 1
    return Outcome(index, 1, status, predicted, CLEAN if wrong else method, stages={CLEAN: 1.0, method: 2.0})


def sweep(method: str, statuses: list[Status], predicted: dict[int, int] | None = None) -> Sweep:
    found = {
        index: outcome(index, status, method, (predicted or {}).get(index, 1)) for index, status in enumerate(statuses)
    }
    return Sweep(0.1, tuple(range(len(statuses))), found, 1.5)


FIRST: list[Status] = ["certified", "certified", "unknown", "unknown", "falsified", "error", "certified"]
SECOND: list[Status] = ["certified", "unknown", "certified", "timeout", "unknown", "unknown", "falsified"]


def test_counts_by_hand() -> None:
    pair = Combination(sweep("ibp", FIRST), sweep("exact", SECOND, {1: 0, 6: 0}), one_network=False)
    assert pair.complementarity() == Complementarity(
        n=7, first=3, second=2, either=4, both=1, only_first=2, only_second=1, neither=3,
        correct_both=5, either_of_correct_both=2,
    )  # fmt: skip
    said = pair.content()
    assert "certified" not in said
    with pytest.raises(RuntimeError, match="no verdict together"):
        pair.merged()


def test_two_methods_decide_one_network_together() -> None:
    pair = Combination(sweep("ibp", FIRST), sweep("exact", SECOND), one_network=True)
    whole = pair.merged()
    statuses = [found.status for found in whole.outcomes]
    assert statuses == ["certified", "certified", "certified", "timeout", "falsified", "unknown", "error"]
    assert [found.method for found in whole.outcomes[:3]] == ["ibp", "ibp", "exact"]
    assert whole.outcomes[6].reason == "ibp certifies it and exact falsifies it: one of them is wrong"
    assert whole.seconds == 3.0
    assert whole.outcomes[0].stages == {CLEAN: 2.0, "ibp": 2.0, "exact": 2.0}
    said = pair.content()
    assert [said[name] for name in ("certified", "falsified", "unknown", "timeout", "error")] == [3, 1, 1, 1, 1]


def test_only_what_both_were_asked_counts() -> None:
    second = sweep("crown", SECOND)
    del second.found[0]
    pair = Combination(sweep("ibp", FIRST), second, one_network=True)
    assert pair.complementarity().n == 6
    assert list(pair.merged().found) == [1, 2, 3, 4, 5, 6]


def test_the_table_says_what_is_claimed() -> None:
    pairs = [Combination(sweep("ibp", FIRST), sweep("crown", SECOND), one_network=one) for one in (True, False)]
    one, two = (combination_table([pair], "ibp on a", "crown on b") for pair in pairs)
    assert "4 (57.14 %)" in one
    assert "first: ibp on a, second: crown on b" in one
    assert "what either certifies is certified" in one
    assert "a statement about the pair" in two


def test_sweeps_of_other_images_do_not_combine() -> None:
    with pytest.raises(UsageError, match="same images at the same radius"):
        Combination(sweep("ibp", FIRST), sweep("crown", SECOND[:3]), one_network=True)


def test_image_that_they_disagree_about_keeps_its_class() -> None:
    merged = Combination(sweep("crown", FIRST), sweep("exact", SECOND), one_network=True).merged()
    assert merged.found[6].status == "error"
    assert merged.found[6].correct
