"""One side of a comparison, in an environment of its own: `python worker.py SIDE NUMBER`, started by compare.py.

SIDE is "softjax" (ours), "hard" (JAX's own operator) or a peer, NUMBER the comparison's place in `cases.COMPARISONS`.
Prints a JSON line about the results, then for every line "forward" or "gradient" that it reads the seconds of one call.
"""

import importlib
import json
import sys
import time
from typing import Any

import numpy as np
from comparisons import COMPARISONS

SIDES = {
    "softjax": "in_jax",
    "release": "in_jax",
    "hard": "in_jax",
    "ott": "in_jax",
    "pot": "in_numpy",
    "torchsort": "in_torch",
    "diffsort": "in_torch",
    "difftopk": "in_torch",
}
"""Which module makes a side's programs: prepare(side, comparison, x, draw) -> (values, report, {pass: call})."""


def listed(values: Any) -> list[float]:
    """As JSON has it."""
    return np.asarray(values, np.float64).ravel().tolist()


def main(side: str, number: str) -> None:
    """Prepare, report, and be timed."""
    comparison = COMPARISONS[int(number)]
    rng = np.random.default_rng(0)
    x = rng.normal(size=comparison.shape).astype(np.float32)
    values, report, calls = importlib.import_module(SIDES[side]).prepare(side, comparison, x, rng)
    for call in calls.values():
        call()
    print(json.dumps({"values": listed(values), "passes": list(calls), **report}), flush=True)
    for which in sys.stdin:
        start = time.perf_counter()
        calls[which.strip()]()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
