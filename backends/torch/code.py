"""Straight-line torch code while it is being written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import fx, nn


@dataclass
class Code:
    """The calls written so far, and the modules that they call. None of these has a tensor of its own."""

    calls: fx.Graph = field(default_factory=fx.Graph)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    _known: dict[tuple[object, ...], fx.Node] = field(default_factory=dict)

    def given(self, name: str) -> fx.Node:
        return self.calls.placeholder(name)

    def call(self, function: Callable[..., object], *arguments: object, **options: object) -> fx.Node:
        return self.calls.call_function(function, arguments, options)  # type: ignore[arg-type]

    def once(self, function: Callable[..., object], *arguments: object) -> fx.Node:
        """The same call once for the whole program."""
        key = (function, *arguments)
        if key not in self._known:
            self._known[key] = self.call(function, *arguments)
        return self._known[key]

    def module(self, module: nn.Module, *arguments: object) -> fx.Node:
        name = f"step_{len(self.modules)}"
        self.modules[name] = module
        return self.calls.call_module(name, arguments)  # type: ignore[arg-type]

    def finished(self, *results: object) -> fx.GraphModule:
        """What has been written as a module that gives these results."""
        self.calls.output(results)  # type: ignore[arg-type]
        root: dict[str, nn.Module] = dict(self.modules)
        module = fx.GraphModule(root, self.calls)
        module.graph.eliminate_dead_code()
        module.recompile()
        return module
