"""The modes: how smooth a step is, its integral, and the simplex projection that belongs to it.

An operator looks its mode up here once and never compares mode names. `step` and `ramp` act on
t = x / softness; `project` maps logits to a distribution along the last axis, by the entropy (smooth)
or by the p-norm regulariser with p = 2, 3/2, 4/3 (c0, c1, c2), for which the weights are
max(z - theta, 0)**m with m = 1, 2, 3 (Blondel, Martins and Niculae, "Learning with Fenchel-Young
losses", 2020; for m = 1 Wang and Carreira-Perpinan, arXiv:1309.1541).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HALF_WIDTH = 5.0
"""The steps of c0, c1 and c2 rise on [-5, 5] times the softness."""


@dataclass(frozen=True)
class Mode:
    """One smoothing mode. `degree` is the exponent m of the sparse weights, None for the entropic ones."""

    name: str
    degree: int | None
    step: Callable[[Array], Array]
    ramp: Callable[[Array], Array]

    @property
    def reach(self) -> float:
        """A logit this far below its row's maximum has no weight, in float64 too."""
        return 1000.0 if self.degree is None else 2.0

    def project(self, z: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """The distribution over the last axis that the logits z stand for."""
        if self.degree is None:
            return jax.nn.softmax(z, axis=-1)
        peak = jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))
        z = z - peak
        weights = jnp.maximum(z - simplex_threshold(self.degree, z), 0) ** self.degree
        return weights / jnp.sum(weights, axis=-1, keepdims=True)

    def sensitivity(self, p: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """Derivative of a weight with respect to its own logit at a fixed threshold, from the weights p."""
        if self.degree is None:
            return p
        if self.degree == 1:
            return jnp.where(p > 0, jnp.ones_like(p), jnp.zeros_like(p))
        positive = p > 0
        root = jnp.where(positive, p, jnp.ones_like(p)) ** ((self.degree - 1) / self.degree)
        return jnp.where(positive, self.degree * root, jnp.zeros_like(p))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def simplex_threshold(m: int, z: Float[Array, "*batch n"]) -> Float[Array, "*batch 1"]:
    """The theta with sum_j max(z_j - theta, 0)**m = 1 along the last axis, for logits with maximum 0.

    Only logits above -1 can take part, since the largest weight is at most 1. The support is a prefix of
    the descending logits; on it theta solves a polynomial in closed form from the central moments,
    and two Newton steps on the logits themselves remove the rounding of the prefix sums.
    """
    u = -jnp.sort(-jnp.maximum(z, -1), axis=-1)
    count = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    count = count.reshape((1,) * (z.ndim - 1) + (-1,))
    s1, s2, s3 = (jnp.cumsum(u**p, axis=-1) for p in (1, 2, 3))
    excess = {
        1: s1 - count * u,
        2: s2 - 2 * u * s1 + count * u**2,
        3: s3 - 3 * u * s2 + 3 * u**2 * s1 - count * u**3,
    }[m]
    size = jnp.maximum(jnp.sum(excess < 1, axis=-1, keepdims=True), 1)
    k, s1, s2, s3 = (jnp.take_along_axis(jnp.broadcast_to(a, z.shape), size - 1, axis=-1) for a in (count, s1, s2, s3))
    mean = s1 / k
    spread = jnp.maximum(s2 / k - mean**2, 0)
    if m == 1:
        theta = mean - 1 / k
    elif m == 2:
        theta = mean - jnp.sqrt(jnp.maximum(1 / k - spread, 0))
    else:
        skew = s3 / k - 3 * mean * s2 / k + 2 * mean**3
        theta = mean - _depressed_cubic_root(3 * spread, skew - 1 / k)
    theta = jnp.clip(theta, -1, 0)
    for _ in range(2):
        rest = jnp.maximum(z - theta, 0)
        slope = jnp.sum(m * rest ** (m - 1) if m > 1 else (z > theta).astype(z.dtype), axis=-1, keepdims=True)
        total = jnp.sum(rest**m, axis=-1, keepdims=True)
        theta = theta + (total - 1) / jnp.maximum(slope, jnp.finfo(z.dtype).tiny)
    return theta


@simplex_threshold.defjvp
def _simplex_threshold_jvp(m, primals, tangents):
    (z,), (dz,) = primals, tangents
    theta = simplex_threshold(m, z)
    slope = m * jnp.maximum(z - theta, 0) ** (m - 1) if m > 1 else (z > theta).astype(z.dtype)
    return theta, jnp.sum(slope * dz, axis=-1, keepdims=True) / jnp.sum(slope, axis=-1, keepdims=True)


def _depressed_cubic_root(p: Array, q: Array) -> Array:
    """The real root of d**3 + p d + q = 0 for p >= 0, by the hyperbolic form of Cardano's."""
    p = jnp.maximum(p, jnp.finfo(p.dtype).tiny ** 0.5)
    scale = jnp.sqrt(p / 3)
    return -2 * scale * jnp.sinh(jnp.arcsinh(q / (2 * scale**3)) / 3)


def _unit(t: Array) -> Array:
    return jnp.clip(t / (2 * HALF_WIDTH) + 0.5, 0, 1)


def _beyond(t: Array) -> Array:
    return jnp.maximum(t - HALF_WIDTH, 0)


def _polynomial(name: str, degree: int, step: Callable[[Array], Array], integral: Callable[[Array], Array]) -> Mode:
    """A mode whose step is a polynomial of u = t/10 + 1/2 on [0, 1]; `integral` is its integral from 0."""
    return Mode(
        name=name,
        degree=degree,
        step=lambda t: step(_unit(t)),
        ramp=lambda t: 2 * HALF_WIDTH * integral(_unit(t)) + _beyond(t),
    )


SMOOTH = Mode("smooth", None, jax.nn.sigmoid, jax.nn.softplus)
C0 = _polynomial("c0", 1, lambda u: u, lambda u: u**2 / 2)
C1 = _polynomial("c1", 2, lambda u: u**2 * (3 - 2 * u), lambda u: u**3 * (1 - u / 2))
C2 = _polynomial("c2", 3, lambda u: u**3 * (10 + u * (6 * u - 15)), lambda u: u**4 * (2.5 + u * (u - 3)))

MODES: dict[str, Mode | None] = {"hard": None, "smooth": SMOOTH, "c0": C0, "c1": C1, "c2": C2}
"""Every public mode; None stands for the hard operator."""
