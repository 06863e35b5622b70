"""The kernels of one implementation, by name, behind one pair of functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ... import tuning
from ..._kernel import MOSAIC_GPU, portable_options
from .spec import Operands, Spec


@dataclass(frozen=True, eq=False)
class Kernels:
    """forward(spec, at) -> (result, potentials, sums); backward(spec, at, sums, cotangent) -> cotangents."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _portable(name: str) -> Kernels:
    from . import portable

    interpret = portable_options(name).get("interpret", False)

    def forward(spec: Spec, at: Operands):
        return portable.forward(spec, name, at, interpret)

    def backward(spec: Spec, at: Operands, sums, cotangent):
        return portable.backward(spec, name, at, sums, cotangent, interpret)

    return Kernels(name, forward, backward)


def _mosaic_gpu(name: str) -> Kernels:
    from . import mosaic_gpu

    interpret = name == "pallas_interpret_gpu"

    def forward(spec: Spec, at: Operands):
        return mosaic_gpu.forward(spec, at, interpret)

    def backward(spec: Spec, at: Operands, sums, cotangent):
        return mosaic_gpu.backward(spec, at, sums, cotangent, interpret)

    return Kernels(name, forward, backward)


@cache
def kernels(implementation: str) -> Kernels:
    """The kernels of an implementation; one object for each name, so that compilations are shared."""
    return _mosaic_gpu(implementation) if implementation in MOSAIC_GPU else _portable(implementation)


def sizes(implementation: str, n: int, k: int) -> dict[str, int]:
    """Sizes of the blocks that the kernels for n keys and k anchors work on."""
    if implementation in MOSAIC_GPU:
        from . import mosaic_gpu

        spec = Spec(n, k, 1, 0, None, normalise=True)
        return {"keys": mosaic_gpu.width(spec, implementation), "anchors": mosaic_gpu.anchors_held(spec)}
    from . import portable

    return {"keys": tuning.keys(implementation, k).keys, "anchors": portable.anchors_held(k)}
