"""`plgpu.kernel` of the Mosaic GPU programs, for NVIDIA GPUs of compute capability 9.0 and above.

One warpgroup solves one row of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import _program
from ._few import Few
from ._spec import Operands, Spec

WIDTHS = {2: 512, 4: 256, 8: 128}
"""Keys at a time by the number of anchors: what fits the registers."""


def width(spec: Spec) -> int:
    """Keys at a time: no more than there are, since loads have no masks."""
    return min(next(keys for most, keys in WIDTHS.items() if spec.k <= most), spec.n // 128 * 128)


def _inputs(at: Operands) -> dict[str, jax.Array]:
    small = {"psi": at.psi, "masses": at.masses, "anchors": at.anchors, "tau": at.tau[:, None]}
    arrays = {"y": at.y} | {name: array.astype(jnp.float32) for name, array in small.items()}
    return arrays if at.payload is None else arrays | {"payload": at.payload}


def _run(body: Callable, name: str, inputs: dict[str, jax.Array], outputs: dict[str, Any], interpret: bool):
    """Run `body(refs by name, batch index)` on every row; arrays lead with the batch."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    options: dict[str, Any] = {"interpret": plgpu.InterpretGPUParams()} if interpret else {}

    def flat(*refs):
        body(dict(zip((*inputs, *outputs), refs, strict=True)), lax.axis_index("batch"))

    batch = inputs["y"].shape[0]
    with jax.enable_x64(False):
        results = plgpu.kernel(
            flat,
            out_type=tuple(jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in outputs.values()),
            grid=(batch,),
            grid_names=("batch",),
            kernel_name=name,
            compiler_params=plgpu.CompilerParams(),
            **options,
        )(*inputs.values())
    return dict(zip(outputs, results, strict=True))


def forward(spec: Spec, at: Operands, interpret: bool = False):
    """(rows (batch, wanted, n) or averages (batch, wanted, d), potentials (batch, k), column sums (batch, k))."""

    def body(refs, b):
        program = Few(spec, width(spec), b, refs)
        psi, sums = _program.forward(program, program.vector("psi"))
        program.put_vector("solution", psi)
        program.put_vector("sums", sums)

    last = (spec.payload, jnp.float32) if spec.payload else (spec.n, at.y.dtype)
    outputs = {
        "out": ((spec.wanted, last[0]), last[1]),
        "solution": ((spec.k,), jnp.float32),
        "sums": ((spec.k,), jnp.float32),
    }
    return tuple(_run(body, "transport_forward", _inputs(at), outputs, interpret).values())


def backward(spec: Spec, at: Operands, sums, cotangent, interpret: bool = False):
    """Cotangents of y (batch, n), payload (batch, d, n) or None, masses (batch, k) and tau (batch,)."""

    def body(refs, b):
        program = Few(spec, width(spec), b, refs)
        dmasses, dtau = _program.backward(program, program.vector("psi"), program.vector("sums"))
        program.put_vector("dmasses", dmasses)
        refs["dtau"][b, 0] = dtau

    outputs = {
        "dy": ((spec.n,), at.y.dtype),
        "dmasses": ((spec.k,), jnp.float32),
        "dtau": ((1,), jnp.float32),
    }
    if at.payload is not None:
        outputs["dpayload"] = ((spec.payload, spec.n), at.payload.dtype)
    inputs = _inputs(at) | {"sums": sums, "out": cotangent}
    got = _run(body, "transport_backward", inputs, outputs, interpret)
    return got["dy"], got.get("dpayload"), got["dmasses"], got["dtau"][:, 0]
