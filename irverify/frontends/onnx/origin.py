"""The model itself, run by onnxruntime: what imports are compared with and counterexamples are replayed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from onnx import ModelProto, ValueInfoProto, helper
from torch import Tensor

from irverify.errors import ShapeError, UnsupportedError
from irverify.frontends.onnx.batch import true_inputs
from irverify.frontends.onnx.values import Array


class OnnxOrigin:
    """onnxruntime on the bytes of the model, one thread; started by the first run.

    Where onnxruntime has no implementation for an element type (convolutions of float64, say), ONNX's own reference
    evaluator runs the model instead. `batch` is the extent that the model fixes its batch axis to: other batches run in
    portions of that size.
    """

    def __init__(self, content: bytes, place: str, outputs: Sequence[str], batch: int | None = None) -> None:
        self.description = f"onnxruntime on {place}"
        self._content = content
        self._place = place
        self._outputs = tuple(outputs)
        self._batch = batch
        self._session: Any = None
        self._inputs: dict[str, Any] = {}

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs for inputs in the model's own layout, converted (rounded) to its element types.

        Raises UnsupportedError where the model cannot be run, ShapeError for a wrong number of inputs.
        """
        if self._session is None:
            self._start()
        if len(self._inputs) != len(inputs):
            raise ShapeError(f"expected {len(self._inputs)} inputs, got {len(inputs)}", where=self._place)
        arrays = {
            name: tensor.detach().cpu().numpy().astype(dtype)
            for (name, dtype), tensor in zip(self._inputs.items(), inputs, strict=True)
        }
        if self._batch is None:
            return self._execute(arrays)
        count = next(iter(arrays.values())).shape[0]
        portions = [self._execute(_portion(arrays, at, self._batch)) for at in range(0, count, self._batch)]
        return tuple(torch.cat(parts)[:count] for parts in zip(*portions, strict=True))

    def _execute(self, arrays: dict[str, Array]) -> tuple[Tensor, ...]:
        try:
            results = self._session.run(list(self._outputs), arrays)
        except Exception as error:  # the runtimes' own exceptions share no other root
            reason = f"the model cannot be run: {_first_line(error)}"
            raise UnsupportedError(reason, where=self._place) from error
        return tuple(torch.from_numpy(numpy.array(result)) for result in results)

    def _start(self) -> None:
        import onnxruntime  # not needed by whoever only reads a model
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Unimplemented

        model = ModelProto.FromString(self._content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        providers = ["CPUExecutionProvider"]
        try:
            # Without its second try, which prints to the standard output.
            self._session = onnxruntime.InferenceSession(self._content, options, providers, enable_fallback=0)
        except Unimplemented:
            self._start_reference(model)
        except Exception as error:
            reason = f"onnxruntime {onnxruntime.__version__} cannot load the model: {_first_line(error)}"
            hint = "check=False imports it without comparing"
            raise UnsupportedError(reason, where=self._place, hint=hint) from error
        self._inputs = {
            entry.name: helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
            for entry in true_inputs(model.graph)
        }

    def _start_reference(self, model: ModelProto) -> None:
        from onnx.reference import ReferenceEvaluator  # a large import that few models need

        try:
            self._session = ReferenceEvaluator(model)
        except Exception as error:
            reason = f"neither onnxruntime nor ONNX's reference evaluator can load the model: {_first_line(error)}"
            raise UnsupportedError(
                reason, where=self._place, hint="check=False imports it without comparing"
            ) from error
        self.description = f"ONNX's reference evaluator on {self._place}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


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
