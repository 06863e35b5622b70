"""What softness costs: soft operators against `jnp.sort` of the same array, in one run.

    python perf/bench.py                       every case
    python perf/bench.py softsort neuralsort   cases whose name contains one of the words
    python perf/bench.py --json results.jsonl  append one line for each measurement

Each case prints its forward and value-and-gradient time as multiples of `jnp.sort`, float32, normal data, softness 0.1.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved

import softjax as sj

SHAPES = [(1_000_000,), (64, 16_384), (1_024, 1_024)]


def _sort(**options) -> Callable:
    return lambda x: sj.sort(x, **options)


def cases() -> Iterator[tuple[str, tuple[int, ...], Callable]]:
    """(name, shape, operator) of everything that is measured."""
    for shape in SHAPES:
        n = shape[-1]
        yield "softsort sort", shape, _sort()
        yield "softsort rank", shape, lambda x: sj.rank(x, axis=-1)
        yield "softsort top_k", shape, lambda x, n=n: sj.top_k(x, n // 10)[0]
        yield "softsort quantile", shape, lambda x: sj.quantile(x, 0.9, axis=-1, method="softsort")
        for mode in ("c0", "c1", "c2"):
            yield f"softsort {mode} sort", shape, _sort(mode=mode)
    yield "neuralsort sort", (65_536,), _sort(method="neuralsort")
    yield "neuralsort sort", (16_384,), _sort(method="neuralsort")
    yield "ot top_k", (16, 4_096), lambda x: sj.top_k(x, 32, method="ot", softness=0.01)[0]
    yield "ot sort", (4, 1_024), _sort(method="ot")


def measure(shape: tuple[int, ...], operator: Callable) -> dict[str, float]:
    """Seconds of the hard sort, of the operator, and of its value and gradient."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    out = jax.eval_shape(operator, x)
    weights = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
    loss = jax.value_and_grad(lambda x: jnp.sum(operator(x) * weights))
    candidates = {
        "hard": (jax.jit(lambda x: jnp.sort(x, axis=-1)), (x,)),
        "forward": (jax.jit(operator), (x,)),
        "gradient": (jax.jit(loss), (x,)),
    }
    return interleaved(candidates)


def _context() -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def main(arguments: list[str]) -> None:
    """Measure the cases asked for and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="measure only cases whose name contains one of these")
    parser.add_argument("--json", help="append the results to this file, one JSON object a line")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases() if not options.words or any(word in case[0] for word in options.words)]
    print(f"{'case':24}{'shape':>16}{'hard ms':>10}{'forward':>10}{'gradient':>10}   (x hard)")
    for name, shape, operator in chosen:
        seconds = measure(shape, operator)
        forward, gradient = (seconds[key] / seconds["hard"] for key in ("forward", "gradient"))
        shown = " x ".join(f"{size:,}" for size in shape)
        print(f"{name:24}{shown:>16}{1e3 * seconds['hard']:10.1f}{forward:10.2f}{gradient:10.2f}", flush=True)
        if options.json:
            record = {"case": name, "shape": shape, "seconds": seconds, **_context()}
            with open(options.json, "a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
