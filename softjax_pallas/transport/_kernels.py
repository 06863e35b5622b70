"""The kernels of one implementation, by name, behind one pair of functions whose batch axis vmap folds into."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from ._spec import Operands, Spec

PORTABLE = ("pallas_triton", "pallas_mosaic_tpu", "pallas_interpret")
MOSAIC_GPU = ("pallas_mosaic_gpu", "pallas_interpret_gpu")


@dataclass(frozen=True, eq=False)
class Kernels:
    """forward(spec, at) -> (result, potentials, sums); backward(spec, at, sums, cotangent) -> cotangents."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _folded(function: Callable, spec: Spec, *operands: Any):
    """function(spec, *operands), with further axes that vmap adds folded into the batch in front of every operand.

    A vmapped grid would get a second axis, which CUDA caps at 65,535.
    """
    call = jax.custom_batching.custom_vmap(partial(function, spec))

    @call.def_vmap
    def _(size, batched, *arguments):
        def fold(array, has_axis):
            array = array if has_axis else jnp.broadcast_to(array[None], (size, *array.shape))
            return array.reshape(size * array.shape[1], *array.shape[2:])

        out = _folded(function, spec, *jax.tree.map(fold, arguments, tuple(batched)))
        unfold = partial(jax.tree.map, lambda a: a.reshape(size, a.shape[0] // size, *a.shape[1:]))
        return unfold(out), jax.tree.map(lambda _: True, out)

    return call(*operands)


def _portable(name: str) -> Kernels:
    from . import pallas

    backend, interpret = pallas.BACKENDS[name], name == "pallas_interpret"

    def forward(spec: Spec, at: Operands):
        return pallas.forward(spec, backend, at, interpret)

    def backward(spec: Spec, at: Operands, sums, cotangent):
        return pallas.backward(spec, backend, at, sums, cotangent, interpret)

    return Kernels(name, partial(_folded, forward), partial(_folded, backward))


def _mosaic_gpu(name: str) -> Kernels:
    from . import mosaic_gpu

    interpret = name == "pallas_interpret_gpu"

    def forward(spec: Spec, at: Operands):
        return mosaic_gpu.forward(spec, at, interpret)

    def backward(spec: Spec, at: Operands, sums, cotangent):
        return mosaic_gpu.backward(spec, at, sums, cotangent, interpret)

    return Kernels(name, partial(_folded, forward), partial(_folded, backward))


@cache
def kernels(implementation: str) -> Kernels:
    """The kernels of an implementation; one object for each name, so that compilations are shared."""
    return _mosaic_gpu(implementation) if implementation in MOSAIC_GPU else _portable(implementation)
