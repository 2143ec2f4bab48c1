"""Reading model files: what may be opened, what must be refused, and tensors that lie in files of their own."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from irverify.errors import FileError, UnsupportedError

GZIP_MAGIC = b"\x1f\x8b"
OPSETS = (8, 26)
"""The oldest and the newest version of the ONNX operators that is understood."""
MAIN_DOMAIN = ("", "ai.onnx")


def load_model(source: str | os.PathLike[str] | ModelProto) -> tuple[ModelProto, bytes]:
    """The model, with external data read into it, and its bytes as they are given to onnxruntime.

    Raises FileError where the file cannot be read or is no ONNX model, UnsupportedError for a version that is not
    understood.
    """
    if isinstance(source, ModelProto):
        model, content, place = source, None, "ModelProto"
        folder = None
    else:
        path = Path(source)
        place, folder = str(path), path.parent
        content = _content(path)
        model = _parsed(content, place)
    _check_versions(model, place)
    external = [tensor for tensor in _tensors(model.graph) if tensor.data_location == TensorProto.EXTERNAL]
    for tensor in external:
        if folder is None:
            got = f"got {tensor.name!r} in a file"
            raise FileError(
                f"expected tensors inside the model, {got}", where=place, hint="give the model's path instead"
            )
        _read_external(tensor, folder, place)
    if content is None or external:
        try:
            content = model.SerializeToString()
        except Exception as error:  # of protobuf, which has no types
            raise FileError("expected a model of less than 2 GB, got a larger one", where=place) from error
    return model, content


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise FileError("expected an ONNX file, found no such file", where=str(path)) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileError(f"expected gzip data, got a broken file: {error}", where=str(path)) from error
    except OSError as error:
        raise FileError(f"expected a readable file: {error.strerror}", where=str(path)) from error
    if not content:
        raise FileError("expected an ONNX model, got an empty file", where=str(path))
    return content


def _parsed(content: bytes, place: str) -> ModelProto:
    hint = "is it truncated, or not an ONNX file?"
    try:
        model: ModelProto = ModelProto.FromString(content)
    except Exception as error:  # of protobuf, which has no types
        raise FileError("expected an ONNX model, got bytes that do not parse", where=place, hint=hint) from error
    if not model.HasField("graph") or not model.graph.output or not model.opset_import:
        raise FileError("expected an ONNX model with a graph, outputs and opset", where=place, hint=hint)
    return model


def _check_versions(model: ModelProto, place: str) -> None:
    versions = [opset.version for opset in model.opset_import if opset.domain in MAIN_DOMAIN]
    if not versions:
        raise UnsupportedError("expected a model with ONNX's own operators, got other domains only", where=place)
    oldest, newest = OPSETS
    if not oldest <= versions[0] <= newest:
        hint = f"onnx.version_converter.convert_version(model, {newest if versions[0] > newest else oldest})"
        raise UnsupportedError(f"expected opset {oldest} to {newest}, got {versions[0]}", where=place, hint=hint)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor in the graph: initialisers, attributes, and those of subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(subgraph)


def _read_external(tensor: TensorProto, folder: Path, place: str) -> None:
    """Reads the tensor's data into it. Only files inside the model's own folder are opened, links resolved first."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"{place}: tensor {tensor.name!r}"
    root = folder.resolve()
    target = (root / location).resolve()
    inside = target.is_relative_to(root) and not Path(location).is_absolute()
    if not location or not inside or "\\" in location or ".." in Path(location).parts:
        raise FileError(f"expected external data inside the model's folder, got {location!r}", where=where)
    if not target.is_file():
        raise FileError(f"expected external data in {location!r}, found no such file", where=where)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else target.stat().st_size - offset
    except ValueError as error:
        raise FileError(f"expected whole numbers for offset and length: {error}", where=where) from error
    if offset < 0 or length < 0 or offset + length > target.stat().st_size:
        got = f"{offset}..{offset + length} of {target.stat().st_size} bytes"
        raise FileError(f"expected external data inside {location!r}, got {got}", where=where, hint="is it truncated?")
    with target.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def without_functions(model: ModelProto) -> ModelProto:
    """The model with calls of its own functions replaced by their bodies."""
    if not model.functions:
        return model
    from onnx import inliner  # a large import that few models need

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # whatever the library raises: a function that calls itself, say
        raise UnsupportedError(f"the functions of the model cannot be inlined: {error}") from error
