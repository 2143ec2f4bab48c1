"""A compiler for neural-network verification.

The public names below are imported on first use, so that `import irverify` (and with it the start of every command)
does not wait for torch:

    import irverify as iv
    graph = iv.compile("model.onnx")
    verdict = iv.verify(graph, iv.Linf(x, 0.1, clip=(0, 1)), iv.robust(label), timeout=60)
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from irverify.errors import IRVerifyError

if TYPE_CHECKING:  # the same names for type checkers and editors; a test compares them with the table
    from irverify.backends.milp import formulate as formulate
    from irverify.backends.torch import BoundGraph as BoundGraph
    from irverify.backends.torch import losses as losses
    from irverify.backends.torch import regularizers as regularizers
    from irverify.backends.torch import schedules as schedules
    from irverify.data import DataSet as DataSet
    from irverify.data import load_dataset as load_dataset
    from irverify.frontends import compile as compile
    from irverify.frontends import from_vnnlib as from_vnnlib
    from irverify.ir import Graph as Graph
    from irverify.passes.coefficients import coefficients as coefficients
    from irverify.pipeline import estimates as estimates
    from irverify.pipeline import margins as margins
    from irverify.pipeline import run as run
    from irverify.properties import Property as Property
    from irverify.properties import Query as Query
    from irverify.properties import all_of as all_of
    from irverify.properties import any_of as any_of
    from irverify.properties import linear as linear
    from irverify.properties import robust as robust
    from irverify.regions import L1 as L1
    from irverify.regions import L2 as L2
    from irverify.regions import Box as Box
    from irverify.regions import Linf as Linf
    from irverify.verify import verify as verify

__version__ = "0.1.0"

_HOME = {
    "BoundGraph": "irverify.backends.torch",
    "Box": "irverify.regions",
    "DataSet": "irverify.data",
    "Graph": "irverify.ir",
    "L1": "irverify.regions",
    "L2": "irverify.regions",
    "Linf": "irverify.regions",
    "Property": "irverify.properties",
    "Query": "irverify.properties",
    "all_of": "irverify.properties",
    "any_of": "irverify.properties",
    "coefficients": "irverify.passes.coefficients",
    "compile": "irverify.frontends",
    "estimates": "irverify.pipeline",
    "formulate": "irverify.backends.milp",
    "from_vnnlib": "irverify.frontends",
    "linear": "irverify.properties",
    "load_dataset": "irverify.data",
    "losses": "irverify.backends.torch",
    "margins": "irverify.pipeline",
    "regularizers": "irverify.backends.torch",
    "robust": "irverify.properties",
    "run": "irverify.pipeline",
    "schedules": "irverify.backends.torch",
    "verify": "irverify.verify",
}

__all__ = [*_HOME, "IRVerifyError", "__version__"]


class _Facade(ModuleType):
    """Keeps a public name a public name: importing the module `irverify.verify` must not hide the function `verify`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'irverify' has no attribute {name!r}", name=name, obj=self)
        value = getattr(import_module(_HOME[name]), name)
        super().__setattr__(name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*__all__, *super().__dir__()})


sys.modules[__name__].__class__ = _Facade
