"""Types of values: a shape without the batch axis, and an element type."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

from irverify.errors import ParseError

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "bool",
}
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_TYPE = re.compile(r"(?P<name>\w+)\[(?P<shape>( *[0-9]{1,18} *(, *[0-9]{1,18} *)*)?)\]")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of one value: `shape` without the batch axis, `dtype` of the elements. Written `f32[16,14,14]`."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of one example."""
        return math.prod(self.shape)

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        return TensorType(tuple(int(extent) for extent in shape), self.dtype)

    def with_dtype(self, dtype: torch.dtype) -> TensorType:
        return TensorType(self.shape, dtype)

    def __str__(self) -> str:
        return f"{DTYPE_NAMES.get(self.dtype, str(self.dtype))}[{','.join(map(str, self.shape))}]"

    @staticmethod
    def parse(text: str) -> TensorType:
        """Reads what `str()` writes."""
        match = _TYPE.fullmatch(text)
        if match is None or match["name"] not in DTYPES:
            raise ParseError(f"expected a type such as f32[3,8,8], got {text!r}")
        extents = match["shape"].split(",") if match["shape"] else []
        return TensorType(tuple(int(extent) for extent in extents), DTYPES[match["name"]])
