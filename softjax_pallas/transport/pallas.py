"""`pl.pallas_call` of the portable body for Mosaic TPU, Pallas-Triton (compute capability 8.x) and the interpreter.

One program solves one row of the batch.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .. import tuning
from ._portable import Tiles, backward_body, forward_body
from ._spec import Operands, Spec


@dataclass(frozen=True)
class Backend:
    """How one Pallas backend wants the body.

    `least` anchors at least, and a power of two of them where `power`; `masked`: blocks end where the array ends, so
    accesses carry a mask.
    """

    name: str
    least: int
    power: bool
    masked: bool

    def anchors(self, k: int) -> int:
        """k, rounded up to what a block holds."""
        if self.power:
            return max(self.least, 1 << (k - 1).bit_length())
        return -(-k // self.least) * self.least

    def tile(self, k: int) -> tuple[int, int]:
        """Keys at a time, and warps."""
        found = tuning.keys(self.name, k)
        return found.keys, found.warps


TPU = Backend("pallas_mosaic_tpu", 8, power=False, masked=False)
TRITON = Backend("pallas_triton", 2, power=True, masked=True)
INTERPRETED = Backend("pallas_interpret", 8, power=False, masked=False)
BACKENDS = {backend.name: backend for backend in (TPU, TRITON, INTERPRETED)}

VMEM_LIMIT = 64 << 20


def _compiler_params(backend: Backend, k: int):
    if backend.masked:
        from jax.experimental.pallas import triton as pltriton

        return pltriton.CompilerParams(num_warps=backend.tile(k)[1], num_stages=1)
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=VMEM_LIMIT)


class _Call:
    """Operands, blocks and results of one `pl.pallas_call`."""

    def __init__(self, spec: Spec, backend: Backend, batch: int):
        self.backend, self.batch = backend, batch
        self.size = backend.anchors(spec.k)
        self.tiles = Tiles(spec.n, backend.tile(spec.k)[0], backend.masked)

    def block(self, *shape: int):
        from jax.experimental import pallas as pl

        return pl.BlockSpec((None, *shape), lambda b: (b, *(0 for _ in shape)))

    def small(self, vector, fill: float):
        """(batch, k) -> (batch, K, 1)."""
        missing = self.size - vector.shape[1]
        return jnp.pad(vector.astype(jnp.float32), ((0, 0), (0, missing)), constant_values=fill)[:, :, None]


def _pallas_call(body, call: _Call, spec: Spec, name: str, interpret):
    from jax.experimental import pallas as pl

    return partial(
        pl.pallas_call,
        partial(body, spec=spec, tiles=call.tiles),
        grid=(call.batch,),
        interpret=interpret,
        compiler_params=_compiler_params(call.backend, spec.k),
        name=name,
    )


def _inputs(call: _Call, spec: Spec, at: Operands):
    width = call.tiles.width
    arrays, blocks = [at.y[:, None, :]], [call.block(1, width)]
    if at.payload is not None:
        arrays.append(at.payload)
        blocks.append(call.block(spec.payload, width))
    arrays += [call.small(at.psi, 0.0), call.small(at.masses, 0.0), call.small(at.anchors, 0.5)]
    blocks += [call.block(call.size, 1)] * 3
    return [*arrays, at.tau.astype(jnp.float32)[:, None, None]], [*blocks, call.block(1, 1)]


def forward(spec: Spec, backend: Backend, at: Operands, interpret: Any = False):
    """(rows (batch, wanted, n) or averages (batch, wanted, d), potentials (batch, k), column sums (batch, k))."""
    batch, call = at.y.shape[0], _Call(spec, backend, at.y.shape[0])
    arrays, blocks = _inputs(call, spec, at)
    small = jax.ShapeDtypeStruct((batch, call.size, 1), jnp.float32), call.block(call.size, 1)
    if spec.payload:
        out = jax.ShapeDtypeStruct((batch, call.size, spec.payload), jnp.float32), call.block(call.size, spec.payload)
    else:
        out = jax.ShapeDtypeStruct((batch, spec.wanted, spec.n), at.y.dtype), call.block(call.size, call.tiles.width)
    run = _pallas_call(forward_body, call, spec, "transport_forward", interpret)
    with jax.enable_x64(False):
        rows, psi, sums = run(
            out_shape=[out[0], small[0], small[0]], in_specs=blocks, out_specs=[out[1], small[1], small[1]]
        )(*arrays)
    return rows[:, : spec.wanted], psi[:, : spec.k, 0], sums[:, : spec.k, 0]


def backward(spec: Spec, backend: Backend, at: Operands, sums, cotangent, interpret: Any = False):
    """Cotangents of y (batch, n), payload (batch, d, n) or None, masses (batch, k) and tau (batch,)."""
    batch, call = at.y.shape[0], _Call(spec, backend, at.y.shape[0])
    arrays, blocks = _inputs(call, spec, at)
    arrays.append(call.small(sums, 1.0))
    blocks.append(call.block(call.size, 1))
    width = call.tiles.width
    if spec.payload:
        missing = call.size - cotangent.shape[1]
        arrays.append(jnp.pad(cotangent.astype(jnp.float32), ((0, 0), (0, missing), (0, 0))))
        blocks.append(call.block(call.size, spec.payload))
    else:
        arrays.append(cotangent)
        blocks.append(call.block(call.size, width))
    shapes = [((1, spec.n), at.y.dtype, (1, width))]
    if at.payload is not None:
        shapes.append(((spec.payload, spec.n), at.payload.dtype, (spec.payload, width)))
    shapes += [((call.size, 1), jnp.float32, (call.size, 1)), ((1, 1), jnp.float32, (1, 1))]
    run = _pallas_call(backward_body, call, spec, "transport_backward", interpret)
    with jax.enable_x64(False):
        dy, *dpayload, dmasses, dtau = run(
            out_shape=[jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype, _ in shapes],
            in_specs=blocks,
            out_specs=[call.block(*block) for *_, block in shapes],
        )(*arrays)
    return dy[:, 0], dpayload[0] if dpayload else None, dmasses[:, : spec.k, 0], dtau[:, 0, 0]
