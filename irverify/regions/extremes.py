"""Linear functions over l2 and l1 balls cut by a box: where they are least, and a lower bound of the minimum.

Arguments are coefficients `[..., n]`, the radius `[..., 1]` and how far each coordinate may move, `low <= s <= high`
`[..., n]` (infinite where nothing limits it). A `step` is the s that minimises `a . s`; a `fall` is a lower bound of
that minimum `[...]` by Lagrangian duality, `min over s in the box of a . s + lambda (|s| - radius)`. That is sound for
every multiplier lambda >= 0, however inexactly it was found, and exact for the best one.
"""

from __future__ import annotations

import torch
from torch import Tensor

DOUBLINGS = 64
"""How often the multiplier of an l2 ball may double: beyond, what is not at a limit yet hardly counts."""
BISECTIONS = 100
ROUNDS = 2
"""Of the search for the multiplier of a fall over an l2 ball: two come within a hundredth of the minimum, mostly much
closer."""


def l2_step(coefficients: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Over `|s|_2 <= radius`: `s = clamp(-t a, low, high)` with the largest t that the ball admits (the condition of
    Karush, Kuhn and Tucker), found by bisection; `-radius a / |a|_2` where nothing is cut (paper 2, sec. 4.2)."""
    norm = _norm(coefficients)
    first = radius / torch.where(norm > 0, norm, torch.ones_like(norm))

    def step(power: Tensor) -> Tensor:
        return torch.clamp(-(first * torch.exp2(power)) * coefficients, low, high)

    near, far = torch.zeros_like(radius), torch.full_like(radius, float(DOUBLINGS))
    for _ in range(BISECTIONS if bool((low.isfinite() | high.isfinite()).any()) else 0):
        middle = (near + far) / 2
        fits = _norm(step(middle)) <= radius
        near, far = torch.where(fits, middle, near), torch.where(fits, far, middle)
    return step(near)


def l2_fall(coefficients: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Over `|s|_2 <= radius`, with `lambda = 1 / (2 t)` for the square of the norm: `a . s + (|s|^2 - radius^2) / (2
    t)` at `s = clamp(-t a, low, high)`."""
    with torch.no_grad():
        tiny = torch.finfo(coefficients.dtype).tiny ** 0.5
        multiplier = (radius / _norm(coefficients).clamp(min=tiny)).clamp(tiny, 1 / tiny)
        for _ in range(ROUNDS):  # what is at a limit stays there: the rest of the radius is for the others
            wish = -multiplier * coefficients
            step = torch.clamp(wish, low, high)
            free = step == wish
            left = (radius**2 - _norm(torch.where(free, 0.0, step)) ** 2).clamp(min=0).sqrt()
            wider = left / _norm(torch.where(free, coefficients, 0.0)).clamp(min=tiny)
            multiplier = torch.maximum(multiplier, wider).clamp(max=1 / tiny)
    step, scale = torch.clamp(-multiplier * coefficients, low, high), 2 * multiplier
    return (step * (coefficients + step / scale)).sum(-1) - (radius * (radius / scale)).squeeze(-1)


def l1_fall(coefficients: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Over `|s|_1 <= radius`: lambda is the magnitude of the coefficient at which the radius is spent."""
    coefficients, low, high = torch.broadcast_tensors(coefficients, low.maximum(-radius), high.minimum(radius))
    rest = torch.clamp(torch.zeros_like(low), low, high)  # 0 where the box has it
    with torch.no_grad():
        order = coefficients.abs().argsort(dim=-1, descending=True)
        room = torch.where(coefficients > 0, -low, high).gather(-1, order).clamp(min=0)
        spent = (room.cumsum(-1) < radius).sum(-1, keepdim=True)
        last = order.gather(-1, spent.clamp(max=order.shape[-1] - 1))
    # The gradient goes through the multiplier: of the coordinate at which the radius is spent only a part has moved.
    multiplier = torch.where(spent < order.shape[-1], coefficients.abs().gather(-1, last), 0.0)
    first, second, third = (coefficients * end + multiplier * end.abs() for end in (low, high, rest))
    return torch.minimum(torch.minimum(first, second), third).sum(-1) - (multiplier * radius).squeeze(-1)


def _norm(rows: Tensor) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return result


def l1_step(coefficients: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Over `|s|_1 <= radius`: the steepest coordinates move first, each to its limit, until the radius is spent (a
    fractional knapsack)."""
    forced = torch.clamp(torch.zeros_like(coefficients), low, high)
    budget = radius - forced.abs().sum(1, keepdim=True)
    sign = -coefficients.sign()
    limit = torch.where(sign > 0, high - forced, forced - low)
    room = torch.minimum(torch.where(sign == 0, torch.zeros_like(limit), limit).clamp(min=0), budget.clamp(min=0))
    order = coefficients.abs().argsort(dim=1, descending=True)
    sorted_room = room.gather(1, order)
    spent = sorted_room.cumsum(1) - sorted_room
    taken = torch.minimum(sorted_room, (budget - spent).clamp(min=0))
    return forced + sign * torch.zeros_like(room).scatter(1, order, taken)
