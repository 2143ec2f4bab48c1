"""Kernels on one thread and on two, with vectors of both lengths."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from irverify.kernels import adjoint, pooled


@pytest.fixture(params=[1, 2], scope="module")
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=(1, 2), ids=("32 bytes", "64 bytes"), scope="module")
def chip(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param > adjoint.CHIP:
        pytest.skip("this processor has no vectors of 64 bytes")
    with pytest.MonkeyPatch.context() as patch:
        for module in (adjoint, pooled):
            patch.setattr(module, "CHIP", request.param)
        yield
