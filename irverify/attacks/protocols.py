"""How an attack by projected gradient descent goes about it, and the protocols of the papers by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from irverify.errors import UsageError


@dataclass(frozen=True)
class Pgd:
    """Projected gradient descent on the margin of each disjunct (Madry et al. 2018), from the centre, from vertices
    and from random points.

    `steps` per run, `restarts` runs for each disjunct, `step` as a fraction of the region's half width, shrinking by
    `decay` each step; `seed` fixes the random starts. Over the first part `chords` of the steps activations are mixed
    with the chords over their pre-activation bounds, which fade out: this leads across flat parts of the network.
    With `sample` the runs start from the most violating of so many random points. With `untargeted` there are
    `restarts` runs in all, each from a uniformly random point and on the smallest margin of all disjuncts, as the
    papers evaluate networks.
    """

    steps: int = 40
    restarts: int = 8
    step: float = 0.5
    decay: float = 0.93
    seed: int = 0
    chords: float = 0.0
    sample: int = 0
    untargeted: bool = False

    def __str__(self) -> str:
        """The name of a protocol, or in the words of a pipeline: `pgd{steps=40,restarts=8}`."""
        for name, known in PROTOCOLS.items():
            if self == replace(known, seed=self.seed):
                return name
        extra = [f",{name}={number:g}" for name, number in (("chords", self.chords), ("sample", self.sample)) if number]
        return f"pgd{{steps={self.steps},restarts={self.restarts}{''.join(extra)}}}"


MADRY_STEP = 1 / 30
"""The step of Madry et al. (2018, sec. 4) for MNIST, 0.01 at eps = 0.3. The papers below say how many steps they take
and not how long ones; paper 1 refers to Madry et al., and papers 2 and 4 leave it open (the code published with paper 4
takes Adam's steps)."""
PROTOCOLS = {
    "pgd-40": Pgd(40, 1, MADRY_STEP, 1.0, untargeted=True),  # paper 1, sec. 4.2 and app. D
    "pgd-100": Pgd(100, 1, MADRY_STEP, 1.0, untargeted=True),  # paper 2, sec. 5
    "pgd-200x10": Pgd(200, 10, MADRY_STEP, 1.0, untargeted=True),  # paper 4, sec. 4
}
"""What the papers attack networks with, by name."""


def protocol(name: str) -> Pgd:
    """The protocol of that name. Raises UsageError for an unknown one."""
    if name not in PROTOCOLS:
        raise UsageError(f"expected one of the attacks {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]
