"""Threads of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from irverify.cli.threads import LARGE, settle_threads, wait_quietly
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Relu
from irverify.ir.types import TensorType


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network(size: int) -> Graph:
    builder = GraphBuilder()
    return builder.graph([builder.add(Relu(), builder.input(TensorType((size,), torch.float32)))])


def test_small_networks_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settle_threads(network(LARGE))
    assert torch.get_num_threads() == 2
    settle_threads(network(10))
    assert torch.get_num_threads() == 1


def test_what_is_asked_for_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    settle_threads(network(10))
    assert torch.get_num_threads() == 2
    settle_threads(network(10), 3)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("said", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting(said: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", said or "")
    if said is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    wait_quietly()
    assert os.environ["OMP_WAIT_POLICY"] == expected
