"""Attributes of sliding windows: strides, dilations, and padding in ONNX's several ways."""

from __future__ import annotations

from collections.abc import Sequence

from irverify.frontends.onnx.lowering import Call

Pairs = tuple[tuple[int, int], ...]


def numbers(call: Call, attribute: str, count: int, default: int) -> tuple[int, ...]:
    """One whole number for each spatial axis."""
    entries = tuple(call.node.get(attribute) or [default] * count)
    if len(entries) != count:
        call.refuse(f"expected {count} entries in {attribute}, got {list(entries)}")
    return entries


def window_steps(call: Call, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations."""
    return numbers(call, "strides", count, 1), numbers(call, "dilations", count, 1)


def padding(
    call: Call, extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """(before, after) for each spatial axis: as given, none for VALID, or so that the output has extent / stride
    elements, the odd one after (SAME_UPPER) or before (SAME_LOWER)."""
    mode = call.node.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return given_padding(call, len(kernel))
    if mode == "VALID":
        return ((0, 0),) * len(kernel)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        call.refuse(f"auto_pad {mode!r} is not supported")
    pairs = []
    for extent, size, step, spread in zip(extents, kernel, stride, dilation, strict=True):
        total = max((-(-extent // step) - 1) * step + spread * (size - 1) + 1 - extent, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if mode == "SAME_UPPER" else (more, less))
    return tuple(pairs)


def given_padding(call: Call, count: int) -> Pairs:
    """The attribute `pads`: all amounts before, then all after."""
    amounts = call.node.get("pads") or [0] * (2 * count)
    if len(amounts) != 2 * count:
        call.refuse(f"expected {2 * count} entries in pads, got {amounts}")
    return tuple(zip(amounts[:count], amounts[count:], strict=True))


def rounded_up(
    pairs: Pairs, extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Padding for ceil_mode: as much after the end as a last, incomplete window needs that starts before the end."""
    result = []
    for (before, after), extent, size, step, spread in zip(pairs, extents, kernel, stride, dilation, strict=True):
        reach = spread * (size - 1) + 1
        count = -(-(extent + before + after - reach) // step) + 1
        if (count - 1) * step >= extent + before:
            count -= 1
        result.append((before, (count - 1) * step + reach - extent - before))
    return tuple(result)
