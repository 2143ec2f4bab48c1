"""Several processes that train one network together, each on its part of every batch, as `torchrun` starts them.

Every process has all images and draws the same random numbers, for the whole batch; only what is computed from a batch
is divided. Sums over the processes make loss, gradients and batch statistics those of the whole batch, so that a run is
the same, to rounding, with any number of processes.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from irverify.errors import IRVerifyError, TrainingError, UsageError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` says of a process in its environment."""
PATIENCE = datetime.timedelta(hours=24)
"""How long a process waits for another one that is there but says nothing: it may be measuring the network. One that
has ended is noticed at once."""
REASON = "irverify/reason"
"""The key under which a process that fails leaves its reason for the first one."""


class OtherEnded(TrainingError):
    """Another process of the run has ended, and so this one cannot go on."""


@dataclass(frozen=True)
class Share:
    """The part of a batch that a process computes: places `[own]` in the batch of `whole` examples, and what its mean
    counts for in the mean over the batch. `split`: others have other parts."""

    rows: slice
    whole: int
    weight: float
    split: bool


@dataclass(frozen=True)
class Processes:
    """The processes of a run, `size` of them, and which one this is. The first alone, rank 0, speaks and writes."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> Share:
        """What this process computes of a batch of `count` examples: consecutive ones, one more in the earlier
        processes where they do not come out even. Where there are fewer than processes, each computes all of them."""
        if count < self.size or self.size == 1:
            return Share(slice(0, count), count, 1 / self.size, split=False)
        least, more = divmod(count, self.size)
        begin = self.rank * least + min(self.rank, more)
        end = begin + least + (self.rank < more)
        return Share(slice(begin, end), count, (end - begin) / count, split=True)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, differentiable; the tensor itself where there is one process."""
        if self.size == 1:
            return tensor
        result: Tensor = _Total.apply(tensor)  # type: ignore[no-untyped-call]
        return result

    def add_gradients(self, module: nn.Module) -> None:
        """Gives each parameter the sum of its gradients in all processes."""
        given = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if self.size == 1 or not given:
            return
        for parameter in given:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in given if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, tensors: Sequence[Tensor]) -> None:
        """Gives all processes the tensors of the first one."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def told(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The whole numbers that the first process has, in all of them; what the others give does not matter."""
        if self.size == 1:
            return tuple(numbers)
        count = torch.tensor(len(numbers))
        dist.broadcast(count, 0)
        found = torch.zeros(int(count), dtype=torch.long)
        if self.first:
            found.copy_(torch.tensor(numbers, dtype=torch.long))
        if len(found):
            dist.broadcast(found, 0)
        return tuple(found.tolist())

    def meet(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, a process that fails leaves its reason to the first one, and one that finds another ended raises
        OtherEnded with that reason."""
        try:
            yield
        except OtherEnded:
            raise
        except KeyboardInterrupt:
            self._leave_word("interrupted")
            raise
        except IRVerifyError as error:
            self._leave_word(str(error))
            raise
        except Exception as error:
            if self.size > 1 and _is_lost(error):
                raise OtherEnded(self._word()) from error
            self._leave_word(f"{type(error).__name__}: {error}")
            raise

    def _leave_word(self, text: str) -> None:
        if self.size > 1 and not self.first:
            try:
                if not _store().check([REASON]):
                    _store().set(REASON, f"process {self.rank} of {self.size}: {text}")
            except (RuntimeError, ValueError):
                return  # there is nobody to tell

    def _word(self) -> str:
        """What the process that has ended said, if anything."""
        if self.first:  # the others say nothing, and the store may be gone with this one
            try:
                if _store().check([REASON]):
                    return str(_store().get(REASON).decode())
            except (RuntimeError, ValueError):
                pass
        return f"another one of the {self.size} processes has ended without a word"


ALONE = Processes()


def joined(device: str, environment: Mapping[str, str] = os.environ) -> tuple[Processes, str]:
    """The processes that `torchrun` started, and the device of this one; `ALONE` where it did not.

    UsageError for a device that several processes cannot be on and for a PyTorch without gloo, TrainingError where this
    process has no GPU of its own or does not reach the others.
    """
    if not all(environment.get(name) for name in NEEDED) or int(environment["WORLD_SIZE"]) == 1:
        return ALONE, device
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    kind = device.partition(":")[0]
    if device not in ("cpu", "cuda"):
        raise UsageError(f"expected --device cpu or cuda with {size} processes, got {device!r}")
    if not (dist.is_available() and dist.is_gloo_available()):
        raise UsageError(f"expected one process, got {size}: this PyTorch is built without gloo")
    if kind == "cuda":
        device = f"cuda:{environment.get('LOCAL_RANK', rank)}"
        if int(environment.get("LOCAL_RANK", rank)) >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise TrainingError(f"expected a GPU for each process, got {found} for {device}", where=f"process {rank}")
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the {size} processes cannot reach each other: {error}") from error
    return Processes(rank, size), device


def _store() -> Any:
    """What the processes share keys and values in."""
    return dist.distributed_c10d._get_default_store()


def _is_lost(error: Exception) -> bool:
    """Whether an exception says that another process is gone."""
    if isinstance(error, dist.DistError):
        return True
    words = ("connection closed by peer", "connection reset", "connection refused", "broken pipe", "gloo", "nccl")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


class _Total(torch.autograd.Function):
    """The sum over the processes. Each process has a part of the loss: what one summand is worth is the sum of what it
    is worth to each of them."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        result = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        result = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result
