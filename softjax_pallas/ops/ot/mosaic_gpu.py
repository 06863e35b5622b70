"""`plgpu.kernel` of the Mosaic GPU programs, for NVIDIA GPUs of compute capability 9.0 and above.

One warpgroup solves one row of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ... import tuning
from . import newton, tensor_core
from .limits import FEW
from .one_array_per_anchor import Few
from .spec import Operands, Spec

INTERPRETED = {False: "pallas_mosaic_gpu", True: "pallas_interpret_gpu"}


def width(spec: Spec, implementation: str) -> int:
    """Keys at a time: no more than there are, since loads have no masks."""
    if spec.k > FEW:
        return tensor_core.ROWS
    return min(tuning.keys(implementation, spec.k).keys, spec.n // 128 * 128)


def anchors_held(spec: Spec) -> int:
    """The length of a vector in memory."""
    return spec.k if spec.k <= FEW else tensor_core.padded(spec.k)


def _program_of(spec: Spec, refs: dict[str, Any], batch: Any, interpret: bool):
    return (
        Few(spec, width(spec, INTERPRETED[interpret]), batch, refs)
        if spec.k <= FEW
        else tensor_core.Many(spec, batch, refs)
    )


def _vector(spec: Spec, vector: jax.Array, fill: float = 0.0) -> jax.Array:
    missing = anchors_held(spec) - vector.shape[-1]
    widths = ((0, 0),) * (vector.ndim - 1) + ((0, missing),)
    return jnp.pad(vector.astype(jnp.float32), widths, constant_values=fill) if missing else vector.astype(jnp.float32)


def _inputs(spec: Spec, at: Operands) -> dict[str, jax.Array]:
    arrays = {
        "y": at.y,
        "psi": _vector(spec, at.psi),
        "masses": _vector(spec, at.masses),
        "anchors": _vector(spec, at.anchors, 0.5),
        "tau": at.tau.astype(jnp.float32)[:, None],
    }
    if spec.k > FEW:
        arrays["real"] = _vector(spec, jnp.ones_like(at.masses))
    return arrays if at.payload is None else arrays | {"payload": at.payload}


def _run(body: Callable, name: str, spec: Spec, inputs: dict[str, jax.Array], outputs: dict[str, Any], interpret: bool):
    """Run `body(refs by name, batch index)` on every row; arrays lead with the batch."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    options: dict[str, Any] = {"interpret": plgpu.InterpretGPUParams()} if interpret else {}
    scratch = tensor_core.scratch(spec.k) if spec.k > FEW else {}

    def flat(*refs):
        body(dict(zip((*inputs, *outputs, *scratch), refs, strict=True)), lax.axis_index("batch"))

    batch = inputs["y"].shape[0]
    with jax.enable_x64(False):
        results = plgpu.kernel(
            flat,
            out_type=tuple(jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in outputs.values()),
            scratch_types=tuple(scratch.values()),
            grid=(batch,),
            grid_names=("batch",),
            kernel_name=name,
            compiler_params=plgpu.CompilerParams(reduction_scratch_bytes=6144),
            **options,
        )(*inputs.values())
    return dict(zip(outputs, results, strict=True))


def forward(spec: Spec, at: Operands, interpret: bool = False):
    """(rows (batch, wanted, n) or averages (batch, wanted, d), potentials (batch, k), column sums (batch, k))."""

    def body(refs, b):
        program = _program_of(spec, refs, b, interpret)
        psi, sums = newton.forward(program, program.vector("psi"))
        program.put_vector("solution", psi)
        program.put_vector("sums", sums)

    size = anchors_held(spec)
    # Averages leave as vectors, one for each column of the payload.
    out = ((spec.payload, size), jnp.float32) if spec.payload else ((spec.wanted, spec.n), at.y.dtype)
    outputs = {"out": out, "solution": ((size,), jnp.float32), "sums": ((size,), jnp.float32)}
    rows, psi, sums = _run(body, "transport_forward", spec, _inputs(spec, at), outputs, interpret).values()
    rows = rows[:, :, : spec.wanted].transpose(0, 2, 1) if spec.payload else rows
    return rows, psi[:, : spec.k], sums[:, : spec.k]


def backward(spec: Spec, at: Operands, sums, cotangent, interpret: bool = False):
    """Cotangents of y (batch, n), payload (batch, d, n) or None, masses (batch, k) and tau (batch,)."""

    def body(refs, b):
        program = _program_of(spec, refs, b, interpret)
        dmasses, dtau = newton.backward(program, program.vector("psi"), program.vector("sums"))
        program.put_vector("dmasses", dmasses)
        refs["dtau"][b, 0] = dtau

    outputs = {
        "dy": ((spec.n,), at.y.dtype),
        "dmasses": ((anchors_held(spec),), jnp.float32),
        "dtau": ((1,), jnp.float32),
    }
    if at.payload is not None:
        outputs["dpayload"] = ((spec.payload, spec.n), at.payload.dtype)
    out = _vector(spec, cotangent.transpose(0, 2, 1)) if spec.payload else cotangent
    inputs = _inputs(spec, at) | {"sums": _vector(spec, sums, 1.0), "out": out}
    got = _run(body, "transport_backward", spec, inputs, outputs, interpret)
    return got["dy"], got.get("dpayload"), got["dmasses"][:, : spec.k], got["dtau"][:, 0]
