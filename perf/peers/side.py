"""One side of a comparison, in an environment of its own: `python side.py SIDE NUMBER`, started by compare.py.

SIDE is "softjax" (ours), "hard" (JAX's own operator) or a peer, NUMBER the comparison's place in COMPARISONS. Prints a
JSON line about the results, then for every line "forward" or "gradient" that it reads the seconds of one call. Each
library is imported where it is used, since no environment has all of them.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from comparisons import COMPARISONS, Comparison


def softjax(case: Comparison) -> Callable:
    """Whichever softjax the environment holds."""
    import softjax

    mode = "c0" if case.method == "fast_soft_sort" else "smooth"
    how = {"softness": case.softness, "method": case.method, "mode": mode, "axis": -1}
    return {
        "sort": lambda x: softjax.sort(x, standardize=case.method == "ot", **how),
        "top_k": lambda x: softjax.top_k(x, case.k, **how)[0],
        "mask": lambda x: softjax.top_k_mask(x, case.k, **how),
        "ranking": lambda x: softjax.ranking(x, descending=False, **how),
    }[case.operator]


def hard(case: Comparison) -> Callable:
    """JAX's hard operators."""
    import jax
    import jax.numpy as jnp

    rows = np.arange(case.shape[0])[:, None]
    return {
        "sort": lambda x: jnp.sort(x, axis=-1),
        "top_k": lambda x: jax.lax.top_k(x, case.k)[0],
        "mask": lambda x: jnp.zeros_like(x).at[rows, jax.lax.top_k(x, case.k)[1]].set(1),
        "ranking": lambda x: jnp.argsort(jnp.argsort(x, axis=-1), axis=-1).astype(x.dtype),
    }[case.operator]


def ott(case: Comparison, **more) -> Callable:
    """ott-jax, tools.soft_sort."""
    from ott.tools import soft_sort

    how = more | {"epsilon": case.softness, "threshold": case.theirs["ott"], "max_iterations": 20_000, "axis": -1}
    return {
        "sort": lambda x: soft_sort.sort(x, **how),
        "top_k": lambda x: soft_sort.sort(x, topk=case.k, **how)[..., ::-1],
        "mask": lambda x: soft_sort.topk_mask(x, k=case.k, **how),
        "ranking": lambda x: soft_sort.ranks(x, **how),
    }[case.operator]


def lapsum(case: Comparison) -> Callable:
    """LapSum by its formula."""
    from lapsum import mask

    return lambda x: mask(x, case.k, case.theirs["lapsum"])


def marginal_error(side: str, case: Comparison, x) -> float:
    """How far what a wanted rank receives is from 1, in elements, at most: by our solver, by the release's columns."""
    import softjax

    how = {"softness": case.softness, "method": case.method}
    if side == "release":
        return float(abs(softjax.top_k(x, case.k, axis=-1, **how)[1].sum(axis=-1) - 1).max())
    return float(abs(softjax.soft_permutation(x, **how)[-case.k :].solver_info().marginal_error).max())


def in_jax(side: str, case: Comparison, x: np.ndarray, rng: np.random.Generator):
    """Of the released softjax, ours, ott-jax, LapSum, and JAX's hard operators."""
    import jax
    import jax.numpy as jnp

    double = side == "release" and case.method == "ot"
    if double:
        jax.config.update("jax_enable_x64", True)  # the release's transport needs it
    make = {"hard": hard, "ott": ott, "lapsum": lapsum}.get(side, softjax)
    keys = jnp.asarray(x, jnp.float64 if double else jnp.float32)
    forward = jax.jit(make(case))
    values = jax.block_until_ready(forward(keys))
    calls = {"forward": lambda: jax.block_until_ready(forward(keys))}
    report: dict = {"dtype": str(keys.dtype)}
    if side in ("softjax", "release") and (case.operator, case.method) == ("top_k", "ot"):
        report["marginal_error"] = marginal_error(side, case, keys)
    weights = jnp.asarray(rng.normal(size=values.shape), keys.dtype)
    # ott-jax's linear solve may break down in float32: then through its iteration, which not every caller has.
    for made in {"hard": (), "ott": (make, partial(make, implicit_diff=None))}.get(side, (make,)):
        gradient = jax.jit(jax.value_and_grad(lambda x, made=made: jnp.sum(made(case)(x) * weights)))
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


def in_pot(side: str, case: Comparison, x: np.ndarray, rng: np.random.Generator):
    """Of POT's Sinkhorn: the same transport problem as softjax's method "ot", forward only, in float64."""
    import ot

    n = case.shape[1]
    # A sort asks for every rank; a top-k for its own, and for one filler that holds the rest.
    masses = np.ones(n) if case.operator == "sort" else np.concatenate([[n - case.k], np.ones(case.k)])
    anchors = np.linspace(0, 1, len(masses))

    def one(row: np.ndarray) -> np.ndarray:
        place = 1 / (1 + np.exp(-(row - row.mean()) / row.std()))
        costs = np.square(place[:, None] - anchors[None])
        how = {"method": "sinkhorn", "numItermax": 20_000, "stopThr": case.theirs["pot"], "warn": False}
        plan = ot.sinkhorn(np.full(n, 1 / n), masses / n, costs, case.softness, **how)
        return row @ plan * n / masses

    def forward() -> np.ndarray:
        sums = np.stack([one(row) for row in x.astype(np.float64)])
        return sums if case.operator == "sort" else sums[:, :0:-1]

    return forward(), {"dtype": "float64"}, {"forward": forward}


def of_numpy(side: str, case: Comparison, x: np.ndarray, rng: np.random.Generator):
    """NumPy's hard operators; a top-k by `np.partition`, and a sort of what it leaves."""
    if case.operator == "sort":
        forward = lambda: np.sort(x, axis=-1)
    else:
        forward = lambda: np.sort(np.partition(x, -case.k, axis=-1)[:, -case.k :], axis=-1)[:, ::-1]
    return forward(), {"dtype": "float32"}, {"forward": forward}


def in_torch(side: str, case: Comparison, x: np.ndarray, rng: np.random.Generator):
    """Of torchsort, diffsort and difftopk, and PyTorch's hard operators."""
    import importlib

    import torch

    library, theirs = importlib.import_module(side), case.theirs.get(side)
    if side == "torch":
        operator = {"sort": lambda x: torch.sort(x).values, "top_k": lambda x: torch.topk(x, case.k).values}[
            case.operator
        ]
    elif side == "torchsort":
        operator = lambda x: library.soft_sort(x, regularization_strength=theirs)
    elif side == "diffsort":
        network = library.DiffSortNet("bitonic", case.shape[1], steepness=theirs)
        operator = lambda x: network(x)[0]
    else:
        network = library.DiffTopkNet("bitonic", case.shape[1], case.k, steepness=theirs)
        # It yields the soft indices, largest last.
        operator = lambda x: torch.einsum("bnk,bn->bk", network(x)[1], x).flip(1)
    keys = torch.tensor(x, requires_grad=True)
    forward = torch.no_grad()(lambda: operator(keys))
    values = forward()
    weights = torch.tensor(rng.normal(size=tuple(values.shape)).astype(np.float32))
    gradient = lambda: torch.autograd.grad((operator(keys) * weights).sum(), keys)[0]
    report = {"dtype": "float32", "finite": bool(torch.isfinite(gradient()).all())}
    return values.numpy(), report, {"forward": forward, "gradient": gradient}


MAKERS = {"pot": in_pot, "numpy": of_numpy}
MAKERS |= dict.fromkeys(("torch", "torchsort", "diffsort", "difftopk"), in_torch)
"""What makes a side's programs, if not in_jax: (side, comparison, x, draw) -> (values, report, {pass: call})."""


def main(side: str, number: str) -> None:
    """Prepare, report, and be timed."""
    comparison = COMPARISONS[int(number)]
    rng = np.random.default_rng(0)
    x = rng.normal(size=comparison.shape).astype(np.float32)
    values, report, calls = MAKERS.get(side, in_jax)(side, comparison, x, rng)
    for call in calls.values():
        call()
    listed = np.asarray(values, np.float64).ravel().tolist()
    print(json.dumps({"values": listed, "passes": list(calls), **report}), flush=True)
    for which in sys.stdin:
        start = time.perf_counter()
        calls[which.strip()]()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
