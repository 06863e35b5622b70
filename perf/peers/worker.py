"""One side of a comparison, in an environment of its own: `python worker.py SIDE NUMBER`, started by compare.py.

SIDE is "softjax" (ours), "hard" (JAX's own operator) or a peer, NUMBER the comparison's place in COMPARISONS. Prints a
JSON line about the results, then for every line "forward" or "gradient" that it reads the seconds of one call.
"""

import importlib
import json
import sys
import time

import numpy as np
from comparisons import COMPARISONS

MODULES = {"pot": "in_numpy", **dict.fromkeys(("torchsort", "diffsort", "difftopk"), "in_torch")}
"""What makes a side's programs, if not in_jax: prepare(side, comparison, x, draw) -> (values, report, {pass: call})."""


def main(side: str, number: str) -> None:
    """Prepare, report, and be timed."""
    comparison = COMPARISONS[int(number)]
    rng = np.random.default_rng(0)
    x = rng.normal(size=comparison.shape).astype(np.float32)
    module = importlib.import_module(MODULES.get(side, "in_jax"))
    values, report, calls = module.prepare(side, comparison, x, rng)
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
