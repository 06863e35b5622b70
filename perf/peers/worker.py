"""One side of a comparison between releases: runs in an environment of its own, whichever `softjax` that holds.

    python perf/peers/worker.py CASE        (started by perf/peers/release.py)

Prints a JSON line about the results, then a line of seconds for every line that it reads.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

RELEASE = any(d.metadata["Name"] == "softjax" for d in importlib.metadata.distributions())
"""The release's distribution is named as its package; ours is softjax-pallas."""

# `same`: softness means the same on both sides. NeuralSort's A_j is a sum of soft absolute values there, of hard ones
# (the paper's) here; transport there divides its softness by another mass.
CASES: dict[str, dict] = {
    "softsort sort": {"n": 16_384, "rows": 1, "softness": 0.1, "method": "softsort", "same": True},
    "neuralsort sort": {"n": 16_384, "rows": 1, "softness": 0.1, "method": "neuralsort"},
    "ot top_k 0.01": {"n": 4_096, "rows": 16, "softness": 0.01, "method": "ot", "k": 32},
    "ot top_k 0.001": {"n": 4_096, "rows": 16, "softness": 0.001, "method": "ot", "k": 32},
}


def operator(case: dict) -> Callable[[jax.Array], tuple[jax.Array, jax.Array | None]]:
    """x -> values, and the soft index where the case has one."""
    import softjax

    how = {"softness": case["softness"], "method": case["method"]}
    if "k" in case:
        return lambda x: softjax.top_k(x, case["k"], axis=-1, **how)
    return lambda x: (softjax.sort(x, axis=-1, standardize=False, **how), None)


def main(name: str) -> None:
    """Compile, report, and be timed."""
    case = CASES[name]
    if RELEASE and case["method"] == "ot":
        jax.config.update("jax_enable_x64", True)  # its transport needs it
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(case["rows"], case["n"])), float if RELEASE and case["method"] == "ot" else None)
    soft = operator(case)
    weights = jnp.asarray(rng.normal(size=soft(x)[0].shape), x.dtype)

    def loss(x):
        values, index = soft(x)
        return jnp.sum(values * weights), (values, index)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (values, index)), slope = jax.block_until_ready(run(x))
    # Both sides are timed without the soft index, which a caller may not want.
    timed = jax.jit(jax.value_and_grad(lambda x: loss(x)[0]))
    jax.block_until_ready(timed(x))
    report = {"dtype": str(x.dtype), "finite": bool(jnp.all(jnp.isfinite(slope))), "values": np.ravel(values).tolist()}
    if index is not None:
        report["marginal_error"] = float(jnp.max(jnp.abs(_columns(index, soft, x) - 1)))
    print(json.dumps(report), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        jax.block_until_ready(timed(x))
        print(time.perf_counter() - start, flush=True)


def _columns(index: jax.Array, soft: Callable, x: jax.Array) -> jax.Array:
    """What each wanted rank receives, in elements: from our solver's report, or of the release's column sums."""
    if RELEASE:
        return index.sum(axis=-1)
    import softjax

    p = softjax.soft_permutation(x, method="ot", softness=CASES[sys.argv[1]]["softness"])
    return 1 + p[-index.shape[-2] :].solver_info().marginal_error


if __name__ == "__main__":
    main(sys.argv[1])
