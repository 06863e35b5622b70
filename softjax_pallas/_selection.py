"""Which kernel a program gets where its caller left the choice: by platform, device, sizes, dtype and JAX's version."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from softjax._kernel_form import Call, Source
from softjax._primitive import Target

from . import tuning
from ._kernel import OLDEST_JAX, PLATFORMS, compute_capability, jax_version
from .ops import ot, pairwise
from .ops.ot.op import TransportKernel, anchors
from .ops.pairwise import PairwiseKernel, TransposedKernel

_BY = {"transposed": "apply"}
"""Forms that run the kernels of another, and are chosen as it is."""


def sources(method: str, op: str, plain: Call, *arguments: Any) -> list[Source]:
    """One for each platform on which a call may get a kernel, once its batch and the device are known."""

    def may(platform: str) -> bool:
        wanted = any(_refusal(method, op, platform, kind, *arguments) is None for kind in tuning.kinds())
        return wanted and any(_unserved(i, method, op, *arguments) is None for i in PLATFORMS[platform])

    return [Chosen(method, op, plain, platform) for platform in PLATFORMS if may(platform)]


def pick(method: str, op: str, target: Target, *arguments: Any) -> tuple[str | None, str]:
    """The implementation for a target, None for plain JAX, and the reason."""
    platform, kind = target.platform, getattr(target.device, "device_kind", None)
    if platform not in PLATFORMS:
        return None, f"there are no kernels for {platform}"
    if not target.local:
        return None, f"XLA would have to split a kernel over several {platform} devices: use shard_map"
    if (reason := _refusal(method, op, platform, kind, *arguments, batch=arguments[0].shape[0])) is not None:
        return None, reason
    implementation = _by_capability(target)
    if implementation is None:
        return None, f"no kernel is known to run on {kind or f'an unknown {platform} device'}"
    if (reason := _unserved(implementation, method, op, *arguments)) is not None:
        return None, reason
    found = tuning.rule(method, platform, kind)
    measured = "measured" if found is not None and found.measured else "a default, not measured"
    return implementation, f"chosen for {platform} by size ({measured})"


def _by_capability(target: Target) -> str | None:
    """What compiles for the device: Mosaic GPU from compute capability 9.0 on."""
    if target.platform == "tpu":
        return "pallas_mosaic_tpu"
    return "pallas_mosaic_gpu" if (compute_capability(target.device) or 0) >= 9 else None


def _refusal(
    method: str, op: str, platform: str, kind: str | None, *arguments: Any, batch: int | None = None
) -> str | None:
    """Why no kernel is chosen on a platform, or None."""
    x = arguments[0]
    if jax_version() < OLDEST_JAX:
        return f"kernels need JAX >= {'.'.join(map(str, OLDEST_JAX))}, this is {jax.__version__}"
    if (found := tuning.rule(method, platform, kind)) is None:
        return f"no kernel is chosen for method {method!r} on {platform}"
    if not isinstance(x.shape[1], int):
        return "the length of rows is symbolic"
    if op in ("rows", "apply", "transposed") and not isinstance(arguments[1], range):
        return "ranks are traced"
    if jnp.dtype(x.dtype) != jnp.float32:
        return f"kernels compute in float32, not {jnp.dtype(x.dtype).name}"
    return found.refusal(_BY.get(op, op), batch, x.shape[1], anchors(op, *arguments) if method == "ot" else 0)


def _unserved(implementation: str, method: str, op: str, *arguments: Any) -> str | None:
    """Why an implementation cannot run a call, or None."""
    if method == "ot":
        return ot.refusal(implementation, op, *arguments)
    return pairwise.refusal(implementation, method, _BY.get(op, op), *arguments)


@dataclass(frozen=True)
class Chosen(Source):
    """A form by the kernel that `pick` finds for the platform, or in plain JAX."""

    method: str
    op: str
    plain: Call | None
    platform: str | None

    def at(self, target, *arguments):
        implementation = None if target is None else pick(self.method, self.op, target, *arguments)[0]
        if implementation is None:
            return None
        if self.method == "ot":
            return TransportKernel(implementation, "ot", self.op)
        if self.op == "transposed":
            return TransposedKernel(implementation, self.method)
        return PairwiseKernel(implementation, self.method, self.op)

    def result(self, *arguments):
        x = arguments[0]
        batch, n = x.shape
        if self.op in ("mask", "rank"):
            shape = batch, n
        elif self.op == "rows":
            shape = batch, len(arguments[1]), n
        elif self.op == "transposed":
            shape = batch, n, arguments[2].shape[2]
        else:
            shape = batch, len(arguments[1]), 1 if arguments[2] is None else arguments[2].shape[2]
        return jax.ShapeDtypeStruct(shape, x.dtype)

    def saved(self, *arguments):
        if self.op == "transposed":
            return ()
        if self.method != "ot":
            return PairwiseKernel.saved(self.method, self.op, *arguments)
        potentials = jax.ShapeDtypeStruct((arguments[0].shape[0], anchors(self.op, *arguments)), jnp.float32)
        return potentials, potentials

    def no_derivative(self, what):
        return NotImplementedError(f"{self.op} of method {self.method!r} has no {what}.")
