"""What the command line says about computing: element type, device, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from irverify.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Numbers:
    """What `--dtype`, `--device` and `--memory` say; `memory` in MB (2^20 bytes)."""

    dtype: str = "float64"
    device: str = "cpu"
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float64", "float32"):
            raise UsageError(f"expected --dtype float64 or float32, got {self.dtype!r}")

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def bytes(self) -> int | None:
        return None if self.memory is None else self.memory * 2**20

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
