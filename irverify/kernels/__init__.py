"""Steps over many rows in one pass over memory, compiled from kernels.c where the installation had a C compiler.

A function here returns None where PyTorch has to do the same: without compiled code, on other devices, for other types
than single and double precision, for tensors that stand in memory in another order, in compiled programs and under
function transforms. No derivatives are recorded.
"""

from irverify.kernels.native import available

__all__ = ["available"]
