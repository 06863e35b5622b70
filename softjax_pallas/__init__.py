"""Fused Pallas kernels for softjax's array operators on GPU and TPU.

They run where `_selection` finds them worth it, and where they are asked for by name:
`softjax.sort(x, implementation="pallas_mosaic_gpu")`. Importing this package imports no Pallas.
"""

from dataclasses import replace
from functools import cache
from typing import Any

from . import _selection as _selection
from .ops import ot, pairwise

_METHODS = {"softsort": pairwise, "neuralsort": pairwise, "ot": ot}


@cache  # a kernel is one object, by which its traced shapes are remembered
def forms(method: str, implementation: str):
    """The forms of a method by kernels of that implementation.

    **Arguments:**
        method: "softsort", "neuralsort" or "ot".
        implementation: "pallas_mosaic_gpu", "pallas_mosaic_tpu" or "pallas_interpret".
    **Returns:** `softjax._methods.base.Forms`. A form that has no kernel for a call, or whose JAX is too old for one,
        raises `NotImplementedError` with the reason when it is called.
    """
    return replace(_METHODS[method].forms(implementation)[method], transposes=False)


def tiles(method: str, op: str, implementation: str, *arguments: Any) -> dict[str, int]:
    """Sizes of the tiles in which a kernel works on a call, by name."""
    return _METHODS[method].tiles(op, implementation, *arguments)
