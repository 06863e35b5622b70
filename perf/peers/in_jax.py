"""Sides that run in JAX: whichever softjax the environment holds, ott-jax, and JAX's hard operators."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from comparisons import Comparison

Operator = Callable[[jax.Array], jax.Array]


def _softjax(case: Comparison) -> Operator:
    import softjax

    how = {"softness": case.softness, "method": case.method, "axis": -1}
    return {
        "sort": lambda x: softjax.sort(x, standardize=case.method == "ot", **how),
        "top_k": lambda x: softjax.top_k(x, case.k, **how)[0],
        "mask": lambda x: softjax.top_k_mask(x, case.k, **how),
        "ranking": lambda x: softjax.ranking(x, descending=False, **how),
    }[case.operator]


def _hard(case: Comparison) -> Operator:
    def mask(x):
        rows = jnp.arange(x.shape[0])[:, None]
        return jnp.zeros_like(x).at[rows, jax.lax.top_k(x, case.k)[1]].set(1)

    return {
        "sort": lambda x: jnp.sort(x, axis=-1),
        "top_k": lambda x: jax.lax.top_k(x, case.k)[0],
        "mask": mask,
        "ranking": lambda x: jnp.argsort(jnp.argsort(x, axis=-1), axis=-1).astype(x.dtype),
    }[case.operator]


def _ott(case: Comparison, **more) -> Operator:
    from ott.tools import soft_sort

    how = more | {"epsilon": case.softness, "threshold": case.theirs["ott"], "max_iterations": 20_000, "axis": -1}
    return {
        "sort": lambda x: soft_sort.sort(x, **how),
        "top_k": lambda x: soft_sort.sort(x, topk=case.k, **how)[..., ::-1],
        "mask": lambda x: soft_sort.topk_mask(x, k=case.k, **how),
        "ranking": lambda x: soft_sort.ranks(x, **how),
    }[case.operator]


def _marginal_error(side: str, case: Comparison, x: jax.Array) -> float:
    """How far what a wanted rank receives is from 1, in elements, at most: by our solver, by the release's columns."""
    import softjax

    how = {"softness": case.softness, "method": case.method}
    if side == "release":
        return float(jnp.max(jnp.abs(softjax.top_k(x, case.k, axis=-1, **how)[1].sum(axis=-1) - 1)))
    rows = softjax.soft_permutation(x, **how)[-case.k :]
    return float(jnp.max(jnp.abs(rows.solver_info().marginal_error)))


def prepare(side: str, case: Comparison, x: np.ndarray, rng: np.random.Generator):
    """The values, what else there is to report, and the calls to time."""
    double = side == "release" and case.method == "ot"
    if double:
        jax.config.update("jax_enable_x64", True)  # the release's transport needs it
    make = {"hard": _hard, "ott": _ott}.get(side, _softjax)
    keys = jnp.asarray(x, jnp.float64 if double else jnp.float32)
    forward = jax.jit(make(case))
    values = jax.block_until_ready(forward(keys))
    calls = {"forward": lambda: jax.block_until_ready(forward(keys))}
    report = {"dtype": str(keys.dtype)}
    if side in ("softjax", "release") and (case.operator, case.method) == ("top_k", "ot"):
        report["marginal_error"] = _marginal_error(side, case, keys)
    if side != "hard":
        weights = jnp.asarray(rng.normal(size=values.shape), keys.dtype)
        differentiated = lambda make: jax.jit(jax.value_and_grad(lambda x: jnp.sum(make(case)(x) * weights)))
        # ott-jax's linear solve may break down in float32: then through its iteration, which not every caller has.
        for derivative in (make, partial(make, implicit_diff=None)) if side == "ott" else (make,):
            gradient = differentiated(derivative)
            try:
                slope = gradient(keys)[1]
            except (jax.errors.JaxRuntimeError, ValueError) as error:
                if side != "ott":
                    raise
                report["no gradient"] = type(error).__name__
                continue
            report.pop("no gradient", None)
            report["finite"] = bool(jnp.all(jnp.isfinite(slope)))
            calls["gradient"] = lambda run=gradient: jax.block_until_ready(run(keys))
            break
    return values, report, calls
