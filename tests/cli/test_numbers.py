"""Element type, device and memory from the command line."""

from __future__ import annotations

import pytest

from irverify.cli.numbers import Numbers
from irverify.errors import UsageError


def test_memory_goes_to_the_passes_that_can_be_told() -> None:
    numbers = Numbers(memory=64)
    assert numbers.limited("ibp,forward,stability") == "ibp,forward{memory=64},stability"
    assert numbers.limited("forward{memory=5}") == "forward{memory=5}"
    assert Numbers().limited("forward") == "forward"


def test_unknown_words() -> None:
    with pytest.raises(UsageError, match="expected --dtype float64 or float32, got 'int8'"):
        Numbers("int8")
    with pytest.raises(UsageError, match=r"--device nowhere cannot be used: .*there is cpu"):
        Numbers(device="nowhere").check_device()
