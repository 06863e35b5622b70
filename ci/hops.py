"""How far a call travels: `python ci/hops.py` traces calls and prints the files of the packages that each enters, its
entries into another file than the caller's, and those into the other package.

A first call of `jax.jit(...).trace`, forward: what a reader follows from a public operator to its implementation.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import softjax as sj  # noqa: E402

PACKAGES = tuple(str(ROOT / name) + "/" for name in ("softjax", "softjax_pallas"))
SHAPE = 4, 4096
CALLS: dict[str, Callable] = {
    "top_k ot": lambda x: sj.top_k(x, 32, method="ot"),
    "sort": sj.sort,
    "sort neuralsort": lambda x: sj.sort(x, method="neuralsort"),
    "top_k ot by a named kernel": lambda x: sj.top_k(x, 32, method="ot", implementation="pallas_interpret"),
}


def entries(function: Callable) -> Counter[tuple[str | None, str]]:
    """(file of the nearest caller of these packages, file) -> calls, while the function is traced."""
    found: Counter[tuple[str | None, str]] = Counter()

    def of_packages(frame):
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGES):
            frame = frame.f_back
        return None if frame is None else frame.f_code.co_filename

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGES) and frame.f_code.co_name != "<module>":
            found[of_packages(frame.f_back), frame.f_code.co_filename] += 1

    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    jax.jit(function).trace(x)  # modules are imported and what is cached for good is cached
    jax.clear_caches()
    sys.setprofile(watch)
    try:
        jax.jit(lambda x: function(x)).trace(x)
    finally:
        sys.setprofile(None)
    return found


def main() -> None:
    """Print a line for each call."""
    print(f"{'call':28}{'files':>7}{'entries':>9}{'crossings':>11}")
    for name, function in CALLS.items():
        found = entries(function)
        package = lambda file: next(p for p in PACKAGES if file.startswith(p))
        apart = {key: count for key, count in found.items() if key[0] not in (None, key[1])}
        across = sum(count for (a, b), count in apart.items() if package(a) != package(b))
        print(f"{name:28}{len({file for _, file in found}):7}{sum(apart.values()):9}{across:11}")


if __name__ == "__main__":
    main()
