"""Where linear functions are least: over a box, and over l2 and l1 balls cut by a box.

Each function takes coefficients `[batch, n]`, the radius `[batch, 1]` and how far each coordinate may move, `low <= s
<= high` `[batch, n]` (infinite where nothing limits it), all float64, and gives the steps s that minimise `a . s`.
"""

from __future__ import annotations

import torch
from torch import Tensor

DOUBLINGS = 64
"""How often the multiplier of an l2 ball may double: beyond, what is not at a limit yet hardly counts."""
BISECTIONS = 100


def l2_step(coefficients: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Over `|s|_2 <= radius`: `s = clamp(-t a, low, high)` with the largest t that the ball admits (the condition of
    Karush, Kuhn and Tucker), found by bisection; `-radius a / |a|_2` where nothing is cut (paper 2, sec. 4.2)."""
    norm = torch.linalg.vector_norm(coefficients, dim=1, keepdim=True)
    first = radius / torch.where(norm > 0, norm, torch.ones_like(norm))

    def step(power: Tensor) -> Tensor:
        return torch.clamp(-(first * torch.exp2(power)) * coefficients, low, high)

    near, far = torch.zeros_like(radius), torch.full_like(radius, float(DOUBLINGS))
    for _ in range(BISECTIONS if bool((low.isfinite() | high.isfinite()).any()) else 0):
        middle = (near + far) / 2
        fits = torch.linalg.vector_norm(step(middle), dim=1, keepdim=True) <= radius
        near, far = torch.where(fits, middle, near), torch.where(fits, far, middle)
    return step(near)


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
