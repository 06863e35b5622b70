"""Soft samples: a draw of `jax.random` as a soft bool or a soft index, with a gradient to its distribution.

The hard mode is the draw of jax.random's function for the same key. Soft modes relax the same draw: an argmax or a
top-k of scores with Gumbel noise, a comparison with logistic noise. As softness goes to 0 they become the hard one. The
`_st` forms have the hard value and the soft derivative.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._elementwise import sigmoidal
from ._indexing import take
from ._modes import MODES
from ._sorting import argmax, argtop_k
from ._straight_through import st
from ._types import Implementation, MethodName, ModeName, SoftBool, SoftIndex, Softness

__all__ = ["bernoulli", "bernoulli_st", "categorical", "categorical_st", "choice", "choice_st"]


def bernoulli(
    key: Array,
    p: ArrayLike = 0.5,
    shape: Sequence[int] | None = None,
    *,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
) -> SoftBool:
    """Soft `jax.random.bernoulli`: the mode's step of the log-odds of p less logistic noise, over softness.

    **Arguments:**
        key: a PRNG key.
        p: the probability of True, an array of any shape.
        shape: of the result; p broadcasts to it. None for p's own.
        softness: positive, in units of log-odds; broadcastable to the result's shape.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** a SoftBool of p's dtype; jax.random's draw where it is above 1/2, and in the hard mode.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Maddison, Mnih and Teh, arXiv:1611.00712 (binary Concrete).
    """
    p = _check.between("p", p, 0, 1)
    shape = p.shape if shape is None else tuple(shape)
    _fits(shape, p.shape, "p")
    if _check.choice("mode", mode, MODES) is None:
        return jax.random.bernoulli(key, p, shape).astype(p.dtype)
    wide, info = _check.compute_dtype(p.dtype), jnp.finfo(p.dtype)
    # Nothing is below a p of 0, everything below one of 1.
    u = jnp.maximum(jax.random.uniform(key, shape, p.dtype).astype(wide), 2 * float(info.tiny))
    inside = jnp.clip(p.astype(wide), float(info.tiny), 1 - float(info.epsneg))
    odds = jnp.log(inside) - jnp.log1p(-inside)
    noise = jnp.log(u) - jnp.log1p(-u)
    return sigmoidal(jnp.broadcast_to(odds, shape) - noise, softness=softness, mode=mode).astype(p.dtype)


def _fits(shape: tuple[int, ...], own: tuple[int, ...], name: str) -> None:
    try:
        fits = jnp.broadcast_shapes(shape, own) == shape
    except ValueError:
        fits = False
    if not fits:
        _check.wrong("shape", shape, f"one that {own}, the shape of {name}, broadcasts to")


def categorical(
    key: Array,
    logits: ArrayLike,
    axis: int = -1,
    shape: Sequence[int] | None = None,
    replace: bool = True,
    *,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """Soft `jax.random.categorical`: soft indices of the largest of logits with Gumbel noise.

    With replacement a soft `argmax` for every draw, by SoftSort the Gumbel-softmax; without it the rows of one soft
    top-k.

    **Arguments:**
        key: a PRNG key.
        logits: unnormalised log-probabilities, with n categories along `axis`.
        axis: that of the categories.
        shape: of the draws: leading axes, and then those of logits without `axis`. None for these alone.
        replace: False for draws along the leading axes that are of different categories.
        softness: positive, in units of logits; broadcastable to the draws' shape, without replacement to that of
            logits without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot" or "lapsum".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        return_log_probs: the logarithms of the distributions instead, from the scores.
        log_prob_eps: in [0, 1]; add so much to a probability before its logarithm is taken.
    **Returns:** a SoftIndex: `shape`, then n. In the hard mode one-hot at jax.random's draw.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Jang, Gu and Poole, arXiv:1611.01144; without replacement Kool et al., arXiv:1903.06059.
    """
    how = {"softness": softness, "mode": mode, "method": method, "standardize": standardize}
    how |= {"implementation": implementation, "return_log_probs": return_log_probs, "log_prob_eps": log_prob_eps}
    x, replace = _check.real("logits", logits), _check.flag("replace", replace)
    axis = _check.axis("axis", axis, x.ndim)
    own = x.shape[:axis] + x.shape[axis + 1 :]
    shape = own if shape is None else tuple(shape)
    lead = shape[: len(shape) - len(own)]
    if replace:
        _fits(shape, own, "logits without `axis`")
        rest = shape[len(lead) :]
        drawn = jax.random.gumbel(key, (*lead, *rest[:axis], x.shape[axis], *rest[axis:]), x.dtype)
        return argmax(drawn + jnp.expand_dims(x, tuple(range(len(lead)))), len(lead) + axis, **how)
    if shape[len(lead) :] != own:
        _check.wrong("shape", shape, f"one that ends with {own}, the shape of logits without `axis`")
    scores = jnp.moveaxis(jax.random.gumbel(key, x.shape, x.dtype) + x, axis, -1)
    draws = math.prod(lead)
    if not 0 < draws <= x.shape[axis]:
        most = f"one with at most {x.shape[axis]} draws, the number of categories, where there is no replacement"
        _check.wrong("shape", shape, most)
    return jnp.moveaxis(argtop_k(scores, draws, **how), -2, 0).reshape(*shape, x.shape[axis])


def choice(
    key: Array,
    a: int | ArrayLike,
    shape: Sequence[int] = (),
    replace: bool = True,
    p: ArrayLike | None = None,
    axis: int = 0,
    *,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """Soft `jax.random.choice`: averages of the elements around the drawn ones, with a gradient to p and to a.

    With replacement the weights of an element are what a step at the drawn quantile leaves between its cumulated
    probabilities; their derivative by p is, on average over draws, that of the expectation. Without replacement they
    are rows of a soft top-k of log(p) with Gumbel noise. With p None there is nothing to soften: jax.random's draw.

    **Arguments:**
        key: a PRNG key.
        a: array of elements along `axis`, or how many integers from 0 on.
        shape: of the draws.
        replace: False for draws that are of different elements.
        p: (n,), the probabilities of the elements, None for equal ones.
        axis: that of the elements.
        softness: positive, a number; in units of cumulated probability, without replacement of log-probability.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot" or "lapsum", of a top-k.
        standardize: of a top-k; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** an array of floats of a's shape, with `shape` in place of `axis`; jax.random's draw in the hard mode.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Kool et al., arXiv:1903.06059, without replacement.
    """
    x = jnp.arange(a, dtype=float) if isinstance(a, int) else _check.real("a", a)
    axis, shape = _check.axis("axis", axis, x.ndim), tuple(shape)
    hard = _check.choice("mode", mode, MODES) is None
    if not hard:
        _check.positive("softness", softness)
    if p is None or hard or 0 in shape:
        return jax.random.choice(key, x, shape, _check.flag("replace", replace), p, axis)
    given = _check.between("p", p, 0, 1)
    n, draws = x.shape[axis], math.prod(shape)
    if given.shape != (n,):
        _check.wrong("p.shape", given.shape, f"({n},), the number of elements along `axis`")
    if _check.flag("replace", replace):
        ends = jnp.cumsum(given)
        drawn = ends[-1] * (1 - jax.random.uniform(key, shape, ends.dtype))
        ends = jnp.concatenate([jnp.zeros_like(ends[:1]), ends])
        steps = sigmoidal(jnp.expand_dims(ends, range(len(shape))) - drawn[..., None], softness=softness, mode=mode)
        rows = jnp.diff(steps, axis=-1) / (steps[..., -1:] - steps[..., :1])
    elif draws > n:
        _check.wrong(
            "shape", shape, f"one with at most {n} draws, the number of elements, where there is no replacement"
        )
    else:
        scores = jax.random.gumbel(key, (n,), given.dtype) + jnp.log(given)
        how = {"softness": softness, "mode": mode, "method": method, "standardize": standardize}
        rows = argtop_k(scores, draws, implementation=implementation, **how).reshape(*shape, n)
    return take(x, rows, axis)


bernoulli_st = st(bernoulli)
categorical_st = st(categorical)
choice_st = st(choice)
for _form in (bernoulli_st, categorical_st, choice_st):
    _form.__module__ = __name__  # where pickle finds it
