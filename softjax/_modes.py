"""The modes: how smooth a step is, its integral, and the simplex projection that belongs to it.

An operator looks its mode up here once and never compares mode names. `soften` evaluates a mode's `step`, `ramp`
and `sign` at t = x / softness where they are soft; `project` maps logits to a distribution along an axis, by the
entropy (smooth) or by the p-norm regulariser with p = 2, 3/2, 4/3 (c0, c1, c2), for which the weights are
max(z - theta, 0)**m with m = 1, 2, 3 (Blondel, Martins and Niculae, "Learning with Fenchel-Young
losses", 2020; for m = 1 Wang and Carreira-Perpinan, arXiv:1309.1541).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._sharding import vary_alike
from ._types import Float

_MAX_STEPS = 50
"""Newton steps for a threshold; 5 to 10 are usual."""

HALF_WIDTH = 5.0
"""The steps of c0, c1 and c2 rise on [-5, 5] times the softness."""

_FLAT = 1e4
"""Beyond this many softnesses the smooth step is flat and its ramp straight, in float64 too."""


@dataclass(frozen=True)
class Mode:
    """One smoothing mode. `degree` is the exponent m of the sparse weights, None for the entropic ones.

    `step`, `ramp` and `sign`, which is 2 step - 1 with the digits of a small t, are of t where `soften` calls them:
    inside of (-5, 5) for a sparse mode.
    """

    name: str
    degree: int | None
    step: Callable[[Array], Array]
    ramp: Callable[[Array], Array]
    sign: Callable[[Array], Array]

    @property
    def reach(self) -> float:
        """A logit this far below its row's maximum has no weight, in float64 too."""
        return 1000.0 if self.degree is None else 2.0

    @property
    def log_reach(self) -> float:
        """Nor has one so far below a logarithm that matters; sums of such still fit."""
        return 1e25 if self.degree is None else self.reach

    def __reduce__(self) -> tuple:  # compiled functions are not pickled
        return _named, (self.name,)

    def project(self, z: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
        """The distribution over `axis` that the logits z stand for."""
        if self.degree is None:
            return jax.nn.softmax(z, axis=axis)
        z = z - lax.stop_gradient(jnp.max(z, axis=axis, keepdims=True))
        # A weight of 0 has no slope, at the kink neither, as `jax.nn.relu` has it: those of a row then sum to 0.
        weights = jax.nn.relu(z - simplex_threshold(self.degree, axis, z)) ** self.degree
        return weights / jnp.sum(weights, axis=axis, keepdims=True)

    def log_project(self, z: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
        """The logarithms of `project`, of the entropic mode from the logits themselves."""
        return jax.nn.log_softmax(z, axis=axis) if self.degree is None else logarithm(self.project(z, axis))

    def sensitivity(self, p: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """Derivative of a weight with respect to its own logit at a fixed threshold, from the weights p."""
        if self.degree is None:
            return p
        if self.degree == 1:
            return jnp.where(p > 0, jnp.ones_like(p), jnp.zeros_like(p))
        positive = p > 0
        root = jnp.where(positive, p, jnp.ones_like(p)) ** ((self.degree - 1) / self.degree)
        return jnp.where(positive, self.degree * root, jnp.zeros_like(p))


def logarithm(p: Float[Array, "..."]) -> Float[Array, "..."]:
    """The logarithms of weights; where there is none -infinity, with a derivative of 0."""
    some = p != 0  # true for NaN
    return jnp.where(some, jnp.log(jnp.where(some, p, jnp.ones_like(p))), jnp.full_like(p, -jnp.inf))


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
        move = threshold_move(jnp.sum(rest**m, axis=axis, keepdims=True), slope, m)
        move = jnp.where(moving, move, jnp.zeros_like(move))
        new = jnp.clip(theta + move, -1, 0)
        return new, moving & (jnp.abs(move) > 2 * jnp.finfo(z.dtype).eps * jnp.abs(new)), step + 1

    def unfinished(state):
        return jnp.any(state[1]) & (state[2] < _MAX_STEPS)

    start = jnp.max(z, axis=axis, keepdims=True) - 1  # NaN in a slice stays in it
    first = start, jnp.ones(start.shape, bool), jnp.zeros((), jnp.int32)
    return lax.while_loop(unfinished, improve, vary_alike(first))[0]


def threshold_move(total: Array, slope: Array, m: int) -> Array:
    """Newton's move of theta from the sums of max(z - theta, 0)**m and of its power m - 1."""
    norm = total ** (1 / m)
    return (norm - 1) * norm ** (m - 1) / slope


@simplex_threshold.defjvp
def _simplex_threshold_jvp(m, axis, primals, tangents):
    (z,), (dz,) = primals, tangents
    theta = simplex_threshold(m, axis, z)
    slope = m * jnp.maximum(z - theta, 0) ** (m - 1) if m > 1 else (z > theta).astype(z.dtype)
    return theta, jnp.sum(slope * dz, axis=axis, keepdims=True) / jnp.sum(slope, axis=axis, keepdims=True)


Scalar = Callable[[Array], Array]
"""A function of each element."""


def soften(mode: Mode, x: Array, tau: Array, soft: Callable[[Array, Array], Array], hard: Scalar) -> Array:
    """soft(x, tau), or hard(x) where they are the same: wherever the mode's step is flat.

    What is selected there has the derivative of the flat side, in x and in tau, at any size of either: a clip would
    split it at the point itself, and 0 times infinity beyond. Whether a point lies there is decided by a comparison
    of x, which rounds alike however a program is fused.
    """
    # A kink is as wide as the rounding of t, so that t stays inside of it.
    flat = _FLAT if mode.degree is None else HALF_WIDTH * (1 - 4 * float(jnp.finfo(x.dtype).eps))
    far = jnp.abs(x) >= flat * tau
    return jnp.where(far, hard(x), soft(jnp.where(far, jnp.zeros_like(x), x), tau))


def of_quotient(function: Scalar, x: Array, tau: Array) -> Array:
    """function(x / tau)."""
    return function(_quotient(x, tau))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def to_scale(form: Callable[[Array, Array, Array], Array], x: Array, tau: Array) -> Array:
    """form(x, tau, x / tau), which grows as x and tau do together: form(c x, c tau, t) = c form(x, tau, t).

    Its derivative in x is that at tau = 1: 1 / tau is 0 from 2**126 on in float32.
    """
    return form(x, tau, x / tau)


@to_scale.defjvp
def _to_scale_jvp(form, primals, tangents):
    (x, tau), (dx, dtau) = primals, tangents
    t = _quotient(x, tau)
    one = jnp.ones_like(t)
    value, slope = jax.jvp(lambda t: form(t, one, t), (t,), (one,))
    return to_scale(form, x, tau), slope * dx + (value - t * slope) * dtau


def _quotient(x: Array, tau: Array) -> Array:
    """x / tau to the bit, whose derivative in tau has no tau**-2: that overflows where the softness is tiny."""
    size = lax.stop_gradient(tau)
    return x / size * (1 / (1 + (tau - size) / size))


def step(mode: Mode, x: Array, tau: Array) -> Array:
    """The mode's step at x / tau."""
    return soften(mode, x, tau, partial(of_quotient, mode.step), lambda x: (x > 0).astype(x.dtype))


def ramp(mode: Mode, x: Array, tau: Array) -> Array:
    """The integral of `step` over x."""
    form = lambda _, tau, t: tau * mode.ramp(t)
    return soften(mode, x, tau, partial(to_scale, form), lambda x: jnp.maximum(x, 0))


def _polynomial(name: str, degree: int, slope: Scalar, step: Scalar, ramp: Scalar, sign: Scalar) -> Mode:
    """A mode whose step is a polynomial of u = t/10 + 1/2 on [0, 1], with its derivative by u and its integral over t,
    and its sign as one of t/5.

    Each is the derivative of the next, and said to be: the chain of its powers would overflow at a large softness. So
    would the softness times a factor in front of a ramp.
    """
    width = 2 * HALF_WIDTH
    bounded = lambda t: jnp.minimum(step(t / width + 0.5), 1)  # which rounding exceeds
    change = lambda t: slope(t / width + 0.5) / width
    rise = _with_derivative(bounded, change)
    both = _with_derivative(lambda t: jnp.clip(sign(t / HALF_WIDTH), -1, 1), lambda t: 2 * change(t))
    return Mode(name, degree, rise, _with_derivative(lambda t: ramp(t / width + 0.5), rise), both)


def _with_derivative(function: Scalar, derivative: Scalar) -> Scalar:
    differentiated = jax.custom_jvp(function)
    differentiated.defjvps(lambda dt, _, t: derivative(t) * dt)
    return differentiated


SMOOTH = Mode(
    "smooth",
    None,
    jax.nn.sigmoid,
    _with_derivative(jax.nn.softplus, jax.nn.sigmoid),
    _with_derivative(lambda t: jnp.tanh(t / 2), lambda t: 2 * jax.nn.sigmoid(t) * jax.nn.sigmoid(-t)),
)
C0 = _polynomial("c0", 1, jnp.ones_like, lambda u: u, lambda u: u * (5 * u), lambda w: w)
C1 = _polynomial(
    "c1",
    2,
    lambda u: 6 * u * (1 - u),
    lambda u: u**2 * (3 - 2 * u),
    lambda u: u**3 * (10 - 5 * u),
    lambda w: w * (3 - w**2) / 2,
)
C2 = _polynomial(
    "c2",
    3,
    lambda u: 30 * (u * (1 - u)) ** 2,
    lambda u: u**3 * (10 + u * (6 * u - 15)),
    lambda u: u**4 * (25 + u * (10 * u - 30)),
    lambda w: w * (15 - w**2 * (10 - 3 * w**2)) / 8,
)

MODES: dict[str, Mode | None] = {"hard": None, "smooth": SMOOTH, "c0": C0, "c1": C1, "c2": C2}
"""Every public mode; None stands for the hard operator."""


def _named(name: str) -> Mode | None:
    return MODES[name]
