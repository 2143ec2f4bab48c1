"""Networks here are little, and rows over them are looked at on their way all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from irverify.passes import sweep


@pytest.fixture(autouse=True, scope="module")
def looks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "LITTLE", 0)
        yield
