"""`pl.pallas_call` of the portable body for Mosaic TPU and the interpreter: one program solves one row of the batch.

Vectors of anchors are lines in memory and columns in the kernel: the last axis of a TPU's arrays is padded to 128, so a
column in memory takes 512 bytes an anchor.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ... import tuning
from .portable_body import Tiles, backward_body, forward_body, one, turned
from .spec import Operands, Spec

VMEM_LIMIT = 64 << 20
LEAST = 8
"""Anchors of a block are a multiple of it."""


def anchors_held(k: int) -> int:
    """k, rounded up to what a block holds."""
    return -(-k // LEAST) * LEAST


class _Call:
    """Operands, blocks and results of one `pl.pallas_call`."""

    def __init__(self, spec: Spec, implementation: str, batch: int, interpret: Any):
        self.spec, self.batch, self.interpret, self.size = spec, batch, interpret, anchors_held(spec.k)
        self.tiles = Tiles(spec.n, tuning.keys(implementation, spec.k).keys)

    def block(self, *shape: int):
        from jax.experimental import pallas as pl

        return pl.BlockSpec((None, *shape), lambda b: (b, *(0 for _ in shape)))

    def shape_of(self, columns: int = 1) -> tuple[int, int]:
        """Of `columns` vectors of anchors."""
        return columns, self.size

    def small(self, vectors, fill: float = 0.0):
        """(batch, k) or (batch, k, d) -> (batch, d, K)."""
        vectors = jnp.atleast_3d(vectors.astype(jnp.float32))
        missing = (0, self.size - vectors.shape[1])
        vectors = jnp.pad(vectors, ((0, 0), missing, (0, 0)), constant_values=fill)
        return jnp.swapaxes(vectors, 1, 2)

    def read(self, small, k: int):
        """Back to (batch, k, d)."""
        return jnp.swapaxes(small, 1, 2)[:, :k]


def _pallas_call(body, name: str, call: _Call, operands, results):
    """Run a body on operands (array, block); results are (shape, dtype, block). Vectors of anchors have no block."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    columns = []  # of every operand and result, None where it is no vector of anchors

    def blocks(shapes):
        for shape, block in shapes:
            columns.append(None if block else shape[0])
            yield call.block(*(block or shape))

    arrays = [array for array, _ in operands]
    in_specs = list(blocks((array.shape[1:], block) for array, block in operands))
    out_specs = list(blocks((shape, block) for shape, _, block in results))
    run = partial(body, spec=call.spec, tiles=call.tiles)
    run = partial(_along_lanes, run, len(arrays), tuple(c is not None for c in columns))
    scratch = [pltpu.VMEM((call.size, c), jnp.float32) for c in columns if c is not None]
    with jax.enable_x64(False):
        return pl.pallas_call(
            run,
            grid=(call.batch,),
            in_specs=in_specs,
            out_specs=out_specs,
            out_shape=[jax.ShapeDtypeStruct((call.batch, *shape), dtype) for shape, dtype, _ in results],
            scratch_shapes=scratch,
            interpret=call.interpret,
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=VMEM_LIMIT),
            name=name,
        )(*arrays)


def _along_lanes(body, inputs: int, small: tuple[bool, ...], *refs):
    """A body that has vectors of anchors as columns, on references that hold them as lines."""
    lines, scratch = refs[: len(small)], iter(refs[len(small) :])
    columns = [next(scratch) if s else ref for ref, s in zip(lines, small, strict=True)]
    for place, (line, column) in enumerate(zip(lines, columns, strict=True)):
        if small[place] and place < inputs:
            for index in range(line.shape[0]):
                column[:, one(index)] = turned(line[one(index), :], axis=1)
    body(*columns)
    for place, (line, column) in enumerate(zip(lines, columns, strict=True)):
        if small[place] and place >= inputs:
            for index in range(line.shape[0]):
                line[one(index), :] = turned(column[:, one(index)], axis=0)


def _inputs(call: _Call, spec: Spec, at: Operands):
    width = call.tiles.width
    operands: list[tuple[Any, tuple[int, int] | None]] = [(at.y[:, None, :], (1, width))]
    if at.payload is not None:
        operands.append((at.payload, (spec.payload, width)))
    vectors = call.small(at.psi), call.small(at.masses), call.small(at.anchors, 0.5)
    return [*operands, *((v, None) for v in vectors), (at.tau.astype(jnp.float32)[:, None, None], (1, 1))]


def forward(spec: Spec, implementation: str, at: Operands, interpret: Any = False):
    """(rows (batch, wanted, n) or averages (batch, wanted, d), potentials (batch, k), column sums (batch, k))."""
    call = _Call(spec, implementation, at.y.shape[0], interpret)
    small = call.shape_of(), jnp.float32, None
    if spec.payload:
        out = call.shape_of(spec.payload), jnp.float32, None
    else:
        out = (spec.wanted, spec.n), at.y.dtype, (call.size, call.tiles.width)
    operands = _inputs(call, spec, at)
    rows, psi, sums = _pallas_call(forward_body, "transport_forward", call, operands, [out, small, small])
    rows = call.read(rows, spec.wanted) if spec.payload else rows
    return rows, call.read(psi, spec.k)[..., 0], call.read(sums, spec.k)[..., 0]


def backward(spec: Spec, implementation: str, at: Operands, sums, cotangent, interpret: Any = False):
    """Cotangents of y (batch, n), payload (batch, d, n) or None, masses (batch, k) and tau (batch,)."""
    call = _Call(spec, implementation, at.y.shape[0], interpret)
    operands, width = _inputs(call, spec, at), call.tiles.width
    operands.append((call.small(sums, 1.0), None))
    operands.append((call.small(cotangent), None) if spec.payload else (cotangent, (call.size, width)))
    results = [((1, spec.n), at.y.dtype, (1, width))]
    if at.payload is not None:
        results.append(((spec.payload, spec.n), at.payload.dtype, (spec.payload, width)))
    results += [(call.shape_of(), jnp.float32, None), ((1, 1), jnp.float32, (1, 1))]
    dy, *dpayload, dmasses, dtau = _pallas_call(backward_body, "transport_backward", call, operands, results)
    return dy[:, 0], dpayload[0] if dpayload else None, call.read(dmasses, spec.k)[..., 0], dtau[:, 0, 0]
