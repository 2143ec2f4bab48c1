"""What tests of rows that pass several operators at once share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn


def drawn(module: nn.Module, seed: int) -> None:
    """Gives a network other parameters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.detach().copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)


@contextmanager
def counted(way: type) -> Iterator[list[Any]]:
    """What takes rows on in one go, among the objects of a class with a method `before`."""
    found: list[Any] = []
    before = way.before  # type: ignore[attr-defined]

    def noted(self: Any, form: Any, **told: Any) -> Any:
        done = before(self, form, **told)
        if done is not None:
            found.append(self)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way, "before", noted)
        yield found
