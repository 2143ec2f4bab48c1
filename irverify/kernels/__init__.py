"""Steps over many rows in one pass over memory, compiled from kernels.c where the installation had a C compiler.

A function here returns None where PyTorch has to do the same: without compiled code, on other devices, for other types
than single and double precision, for tensors that stand in memory in another order, in compiled programs and under
function transforms. No derivatives are recorded.
"""

from irverify.kernels.bounds import lines, lines_back
from irverify.kernels.folding import fold
from irverify.kernels.halves import half_parallel, half_parallel_back, half_zero, half_zero_back
from irverify.kernels.native import addresses, available
from irverify.kernels.rows import Spots, bend, bend_back, minimum, minimum_back, spread

__all__ = [
    "Spots", "addresses", "available", "bend", "bend_back", "fold", "half_parallel", "half_parallel_back",
    "half_zero", "half_zero_back", "lines", "lines_back", "minimum", "minimum_back", "spread",
]  # fmt: skip
