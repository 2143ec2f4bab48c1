"""The model itself, run by onnxruntime: what imports are compared with and counterexamples are replayed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from onnx import ModelProto, ValueInfoProto
from torch import Tensor

from irverify.errors import ShapeError, UnsupportedError
from irverify.frontends.onnx.values import Array


class OnnxOrigin:
    """onnxruntime on the bytes of the model, one thread; the session starts with the first run.

    `batch` is the extent that the model fixes its batch axis to: other batches run in portions of that size.
    """

    def __init__(self, content: bytes, place: str, names: Sequence[str], batch: int | None = None) -> None:
        self.description = f"onnxruntime on {place}"
        self._content = content
        self._place = place
        self._names = tuple(names)
        self._batch = batch
        self._session: Any = None

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs for inputs in the model's own layout, converted to its element types.

        Raises UnsupportedError where onnxruntime cannot run the model, ShapeError for a wrong number of inputs.
        """
        session = self._started()
        entries = session.get_inputs()
        if len(entries) != len(inputs):
            raise ShapeError(f"expected {len(entries)} inputs, got {len(inputs)}", where=self._place)
        arrays = {
            entry.name: tensor.detach().cpu().numpy().astype(_DTYPES[entry.type])
            for entry, tensor in zip(entries, inputs, strict=True)
        }
        if self._batch is None:
            return self._execute(arrays)
        count = next(iter(arrays.values())).shape[0]
        portions = [self._execute(_portion(arrays, at, self._batch)) for at in range(0, count, self._batch)]
        return tuple(torch.cat(parts)[:count] for parts in zip(*portions, strict=True))

    def _execute(self, arrays: dict[str, Array]) -> tuple[Tensor, ...]:
        try:
            results = self._started().run(list(self._names), arrays)
        except Exception as error:  # onnxruntime's own exceptions share no other root
            reason = f"onnxruntime cannot run the model: {_first_line(error)}"
            raise UnsupportedError(reason, where=self._place) from error
        return tuple(torch.from_numpy(numpy.array(result)) for result in results)

    def _started(self) -> Any:
        if self._session is None:
            import onnxruntime  # not needed by whoever only reads a model

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            providers = ["CPUExecutionProvider"]
            try:
                # Without its second try, which prints to the standard output.
                session = onnxruntime.InferenceSession(self._content, options, providers, enable_fallback=0)
            except Exception as error:
                reason = f"onnxruntime {onnxruntime.__version__} cannot load the model: {_first_line(error)}"
                hint = "check=False imports it without comparing"
                raise UnsupportedError(reason, where=self._place, hint=hint) from error
            self._session = session
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


_DTYPES = {"tensor(float16)": numpy.float16, "tensor(float)": numpy.float32, "tensor(double)": numpy.float64}


def _portion(arrays: dict[str, Array], start: int, size: int) -> dict[str, Array]:
    """Examples from `start` on, the last one repeated where they are too few."""
    result = {}
    for name, array in arrays.items():
        part = array[start : start + size]
        result[name] = numpy.concatenate([part, *[part[-1:]] * (size - len(part))]) if len(part) < size else part
    return result


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def with_outputs(model: ModelProto, names: Sequence[str]) -> bytes:
    """The model with values inside it as further outputs."""
    changed = ModelProto()
    changed.CopyFrom(model)
    present = {output.name for output in changed.graph.output}
    changed.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in present)
    return bytes(changed.SerializeToString())
