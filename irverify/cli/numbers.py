"""What the command line says about computing: element type, device, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from irverify.errors import UsageError

if TYPE_CHECKING:
    import torch

    from irverify.ir.graph import Graph


@dataclass(frozen=True)
class Numbers:
    """What `--dtype`, `--device` and `--memory` say; `dtype` None: that of the model; `memory` in MB (2^20 bytes)."""

    dtype: str | None = "float64"
    device: str = "cpu"
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float64", "float32"):
            raise UsageError(f"expected --dtype float64 or float32, got {self.dtype!r}")

    @property
    def torch_dtype(self) -> torch.dtype | None:
        import torch

        return {None: None, "float64": torch.float64, "float32": torch.float32}[self.dtype]

    def placed(self, graph: Graph) -> Graph:
        """The graph in this element type and on this device."""
        from irverify.ir.graph import convert

        if self.dtype is None and self.device == "cpu":
            return graph
        return convert(graph, self.torch_dtype, self.check_device())

    def limited(self, passes: str) -> str:
        """A pipeline whose passes keep within the memory, as far as they have an option for it that is not set."""
        from irverify.pipeline.catalog import find
        from irverify.pipeline.text import Step, parse_pipeline, print_pipeline

        steps = list(parse_pipeline(passes))
        for place, step in enumerate(steps):
            names = [option.name for option in find(step.name).options]
            if self.memory is not None and "memory" in names and "memory" not in dict(step.options):
                steps[place] = Step(step.name, (*step.options, ("memory", self.memory)))
        return print_pipeline(steps)

    def check_device(self) -> str:
        """The device, which is there. UsageError where it is not."""
        import torch

        try:
            torch.zeros(1, device=self.device).double().sum().item()
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # whatever a build says
            found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            hint = f"there is {', '.join(found)}"
            raise UsageError(f"--device {self.device} cannot be used: {reason}", hint=hint) from error
        return self.device
