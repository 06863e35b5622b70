"""Straight-through estimation: the hard operator's value with the soft operator's derivative.

(Bengio, Leonard and Courville, arXiv:1308.3432.) The soft operator exists in the derivative only: an undifferentiated
call runs the hard one alone.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from . import _check, _compare, _elementwise, _mask, _quantile, _sorting
from ._modes import MODES
from ._permutation import check_mode


def grad_replace(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn with the value of `fn(..., forward=True)` and the derivative of `fn(..., forward=False)`.

    **Arguments:**
        fn: a function with a boolean argument `forward`, of any arguments; both forms return arrays of the same
            shapes and dtypes. Floating-point arrays among the arguments, in containers too, are differentiated.
    **Returns:** a function of fn's other arguments, for use under jit, vmap, grad and jvp.
    **Raises:** whatever fn raises. fn must take what is traced or differentiated as arguments: JAX's derivative rules
        cannot close over it.
    **Source:** Bengio, Leonard and Courville, arXiv:1308.3432.
    """
    _needs(fn, "forward")
    return _replace(fn, {"forward": True}, {"forward": False})


def st(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The straight-through form of fn: the value of mode="hard", the derivative of the mode asked for.

    **Arguments:**
        fn: a function with an argument `mode` that knows "hard"; as for `grad_replace`.
    **Returns:** a function with fn's signature and documentation.
    **Raises:** whatever fn raises.
    **Source:** Bengio, Leonard and Courville, arXiv:1308.3432.
    """
    _needs(fn, "mode")
    form = _replace(fn, {"mode": "hard"}, {})
    form.__name__ = form.__qualname__ = f"{getattr(fn, '__name__', 'fn')}_st"
    form.__doc__ = f"Straight-through: the hard mode's value, the soft mode's derivative.\n\n    {fn.__doc__ or ''}"
    return form


def _needs(fn: Any, keyword: str) -> None:
    if not callable(fn):
        raise TypeError(f"`fn` (={fn!r}) must be a function.")
    parameters = inspect.signature(fn).parameters.values()
    if not any(p.name == keyword or p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(f"`fn` (={getattr(fn, '__name__', fn)}) must have an argument `{keyword}`.")


def _replace(fn: Callable[..., Any], forward: dict[str, Any], backward: dict[str, Any]) -> Callable[..., Any]:
    """fn called with the arguments `forward` for the value and with `backward` for the derivative."""
    own = getattr(fn, "__module__", "").startswith("softjax.")
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def replaced(*args, **kwargs):
        bound = signature.bind_partial(*args, **kwargs)
        if own and "mode" in bound.arguments:  # the value alone would not notice a wrong one
            _check.choice("mode", bound.arguments["mode"], MODES)
            if "method" in bound.arguments:
                check_mode(bound.arguments["mode"], bound.arguments["method"])
        if own and "softness" in bound.arguments:  # nor need one: the derivative does
            _check.positive("softness", bound.arguments["softness"])
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if _is_passed(leaf)]
        constant = [None if i in places else leaf for i, leaf in enumerate(leaves)]

        def call(changes, arrays):
            filled = dict(zip(places, arrays, strict=True))
            args, kwargs = jax.tree.unflatten(tree, [filled.get(i, leaf) for i, leaf in enumerate(constant)])
            bound = signature.bind_partial(*args, **kwargs)
            named = {name: c for name, c in changes.items() if name in signature.parameters}
            bound.arguments.update(named)
            others = {name: c for name, c in changes.items() if name not in named}
            return fn(*bound.args, **{**bound.kwargs, **others})

        @jax.custom_jvp
        def value(*arrays):
            return call(forward, arrays)

        @value.defjvp
        def value_jvp(primals, tangents):
            return value(*primals), jax.jvp(lambda *arrays: call(backward, arrays), primals, tangents)[1]

        return value(*(leaves[i] for i in places))

    if own:  # where pickle finds it
        replaced.__module__ = __name__
    return replaced


def _is_passed(leaf: Any) -> bool:
    """Is it differentiated, or traced? A derivative's rule must not close over a tracer, of integers or keys either."""
    differentiable = isinstance(leaf, (jax.Array, np.ndarray, np.generic)) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return differentiable or isinstance(leaf, jax.core.Tracer)


abs_st = st(_elementwise.abs)
ceil_st = st(_elementwise.ceil)
clip_st = st(_elementwise.clip)
floor_st = st(_elementwise.floor)
heaviside_st = st(_elementwise.heaviside)
mod_st = st(_elementwise.mod)
relu_st = st(_elementwise.relu)
round_st = st(_elementwise.round)
sigmoidal_st = st(_elementwise.sigmoidal)
sign_st = st(_elementwise.sign)
softrelu_st = st(_elementwise.softrelu)
trunc_st = st(_elementwise.trunc)
equal_st = st(_compare.equal)
greater_st = st(_compare.greater)
greater_equal_st = st(_compare.greater_equal)
isclose_st = st(_compare.isclose)
less_st = st(_compare.less)
less_equal_st = st(_compare.less_equal)
not_equal_st = st(_compare.not_equal)
argmax_st = st(_sorting.argmax)
argmin_st = st(_sorting.argmin)
argsort_st = st(_sorting.argsort)
argtop_k_st = st(_sorting.argtop_k)
bottom_k_st = st(_sorting.bottom_k)
max_st = st(_sorting.max)
min_st = st(_sorting.min)
rank_st = st(_sorting.rank)
ranking_st = st(_sorting.ranking)
sort_st = st(_sorting.sort)
top_k_st = st(_sorting.top_k)
bottom_k_mask_st = st(_mask.bottom_k_mask)
top_k_mask_st = st(_mask.top_k_mask)
argmedian_st = st(_quantile.argmedian)
argpercentile_st = st(_quantile.argpercentile)
argquantile_st = st(_quantile.argquantile)
median_st = st(_quantile.median)
percentile_st = st(_quantile.percentile)
quantile_st = st(_quantile.quantile)
