"""What decides images, and how a fault is kept to the image that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

from irverify.certify.outcome import Outcome
from irverify.certify.question import Question
from irverify.errors import IRVerifyError


class Certifier(Protocol):
    """Decides images of one question."""

    question: Question

    def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
        """The outcome of every image at these places of the data set, in lists that come as they get decided, in any
        order. An IRVerifyError means that no image can be decided."""
        ...


Maker: TypeAlias = Callable[[float], Certifier]
"""Makes the certifier for a radius."""
Source: TypeAlias = Callable[[float, Sequence[int]], Iterator[Outcome]]
"""The outcomes of these images at a radius, each as it is decided, in any order."""


def isolated(certifier: Certifier, indices: Sequence[int]) -> Iterator[list[Outcome]]:
    """The outcomes of a certifier. What goes wrong with several images is asked again in halves, until it is one
    image's error; the others go on."""
    open_ = dict.fromkeys(indices)
    try:
        for found in certifier.outcomes(indices):
            for outcome in found:
                del open_[outcome.index]
            yield found
        if open_:
            raise RuntimeError("no outcome came")
    except IRVerifyError:
        raise
    except Exception as error:  # a fault, out of memory: reported, and never a verdict
        rest = list(open_)
        if rest and len(indices) == 1:
            yield [failed(certifier.question, indices[0], f"{type(error).__name__}: {error}")]
            return
        half = (len(rest) + 1) // 2
        for part in (rest[:half], rest[half:]):
            if part:
                yield from isolated(certifier, part)


def failed(question: Question, index: int, reason: str) -> Outcome:
    """The outcome of an image that could not be asked."""
    return Outcome(int(index), int(question.images.labels[index]), "error", reason=reason)


def in_this_process(make: Maker) -> Source:
    """A source that needs no other process."""

    def outcomes(eps: float, indices: Sequence[int]) -> Iterator[Outcome]:
        for found in isolated(make(eps), indices) if indices else ():
            yield from found

    return outcomes
