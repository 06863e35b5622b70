"""The modes: how smooth a step is, its integral, and the simplex projection that belongs to it.

An operator looks its mode up here once and never compares mode names. `step` and `ramp` act on
t = x / softness; `project` maps logits to a distribution along an axis, by the entropy (smooth)
or by the p-norm regulariser with p = 2, 3/2, 4/3 (c0, c1, c2), for which the weights are
max(z - theta, 0)**m with m = 1, 2, 3 (Blondel, Martins and Niculae, "Learning with Fenchel-Young
losses", 2020; for m = 1 Wang and Carreira-Perpinan, arXiv:1309.1541).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._types import Float
from ._varying import vary_alike

_MAX_STEPS = 50
"""Newton steps for a threshold; 5 to 10 are usual."""

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

    def project(self, z: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
        """The distribution over `axis` that the logits z stand for."""
        if self.degree is None:
            return jax.nn.softmax(z, axis=axis)
        z = z - lax.stop_gradient(jnp.max(z, axis=axis, keepdims=True))
        weights = jnp.maximum(z - simplex_threshold(self.degree, axis, z), 0) ** self.degree
        return weights / jnp.sum(weights, axis=axis, keepdims=True)

    def sensitivity(self, p: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """Derivative of a weight with respect to its own logit at a fixed threshold, from the weights p."""
        if self.degree is None:
            return p
        if self.degree == 1:
            return jnp.where(p > 0, jnp.ones_like(p), jnp.zeros_like(p))
        positive = p > 0
        root = jnp.where(positive, p, jnp.ones_like(p)) ** ((self.degree - 1) / self.degree)
        return jnp.where(positive, self.degree * root, jnp.zeros_like(p))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def simplex_threshold(m: int, axis: int, z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The theta with sum_j max(z_j - theta, 0)**m = 1 along `axis`, for logits with maximum 0; `axis` is kept.

    The m-norm of max(z - theta, 0) is convex and decreasing in theta and at least 1 at theta = -1, so
    Newton's iterates rise monotonically to the root, without the sort that the closed form on the support needs.
    A slice that has converged stands still, whatever the others need.
    """

    def improve(state):
        theta, moving, step = state
        rest = jnp.maximum(z - theta, 0)
        slope = jnp.sum(rest ** (m - 1) if m > 1 else (rest > 0).astype(z.dtype), axis=axis, keepdims=True)
        norm = jnp.sum(rest**m, axis=axis, keepdims=True) ** (1 / m)
        move = jnp.where(moving, (norm - 1) * norm ** (m - 1) / slope, jnp.zeros_like(norm))
        new = jnp.clip(theta + move, -1, 0)
        return new, moving & (jnp.abs(move) > 2 * jnp.finfo(z.dtype).eps * jnp.abs(new)), step + 1

    def unfinished(state):
        return jnp.any(state[1]) & (state[2] < _MAX_STEPS)

    start = jnp.max(z, axis=axis, keepdims=True) - 1  # NaN in a slice stays in it
    first = start, jnp.ones(start.shape, bool), jnp.zeros((), jnp.int32)
    return lax.while_loop(unfinished, improve, vary_alike(first))[0]


@simplex_threshold.defjvp
def _simplex_threshold_jvp(m, axis, primals, tangents):
    (z,), (dz,) = primals, tangents
    theta = simplex_threshold(m, axis, z)
    slope = m * jnp.maximum(z - theta, 0) ** (m - 1) if m > 1 else (z > theta).astype(z.dtype)
    return theta, jnp.sum(slope * dz, axis=axis, keepdims=True) / jnp.sum(slope, axis=axis, keepdims=True)


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
