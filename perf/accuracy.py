"""The error tables of docs/transport.md: `python perf/accuracy.py` measures them and writes them into that page.

What transport on points gives, against plans that are written out in float64. Nothing is timed: any machine will do.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import record
from tables import markdown

import softjax as sj
from softjax._methods.base import AbstractMethod
from softjax._methods.ot.method import Grade, OptimalTransport

PAGE = record.ROOT / "docs" / "transport.md"
N, K = 1024, 32
POINTS = 16, 32, 48, 96, 160, 320
SOFTNESS = 0.3, 0.1, 0.05, 0.03, 0.01
KNOWN = 1.0, 0.1, 0.05, 0.03
OPERATORS: dict[str, Callable[..., jax.Array]] = {
    "sort": sj.sort,
    "rank": sj.rank,
    f"top {K}": lambda x, **how: sj.top_k(x, K, **how)[0],
    "median": lambda x, **how: sj.median(x, axis=-1, **how)[:, None],
    f"mask of {K}": lambda x, **how: sj.top_k_mask(x, K, **how),
}


def keys() -> np.ndarray:
    """A row of each kind: normal, uniform, tied, in two clusters, with heavy tails, with one outlier."""
    rng = np.random.default_rng(0)
    apart = rng.normal(size=N) + 50 * (np.arange(N) % 2)
    kinds = rng.normal(size=N), rng.uniform(size=N), rng.integers(0, 8, N), apart, rng.standard_cauchy(N), np.eye(N)[0]
    return np.stack(kinds).astype(np.float32)


class Panels(Grade):
    """So many panels of 16 points, whatever the dtype and however few keys."""

    def panels(self, dtype: jnp.dtype) -> tuple[int, int]:
        """For few anchors and for many."""
        return self.few, self.many

    def worthwhile(self, n: int) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class OnPoints(AbstractMethod):
    """Transport on the points of so many panels, whatever the softness."""

    panels: int
    name = "ot"
    joint = True
    standardize = True

    def rows(self, x, ranks, tau, mode):
        """Rows of P."""
        grade = Panels(0, self.panels, self.panels, 14)
        return OptimalTransport(automatic=False, grade=grade, known=True).rows(x, ranks, tau, mode)


def exact(x: np.ndarray) -> Iterator[list[str]]:
    """Softness -> the largest error of an entry of P, in float64, by the number of points."""
    for softness in SOFTNESS:
        top = partial(sj.argtop_k, jnp.asarray(x, np.float64), K, softness=softness)
        written = top(method="ot", implementation="dense")
        errors = (np.max(np.abs(top(method=OnPoints(points // 16)) - written)) for points in POINTS)
        yield [f"{softness:g}", *(f"{error:.0e}" if np.isfinite(error) else "none" for error in errors)]


def in_float32(x: np.ndarray) -> Iterator[list[str]]:
    """Softness, operator -> the largest error of a value, of the keys' spread or 1 or n, and of a gradient."""
    weights = np.random.default_rng(1).normal(size=(1, N))
    for softness in KNOWN:
        for name, operator in OPERATORS.items():

            def loss(x, implementation, operator=operator, softness=softness):
                y = operator(x, method="ot", softness=softness, implementation=implementation)
                return jnp.sum(y * jnp.asarray(weights[:, : y.shape[1]], y.dtype)), y

            both = jax.grad(loss, has_aux=True)
            (slope, value), (own_slope, own) = both(jnp.asarray(x, np.float64), "dense"), both(jnp.asarray(x), "xla")
            unit = {"rank": N, f"mask of {K}": 1}.get(name, np.ptp(x, axis=1, keepdims=True))
            off = np.max(np.abs(own - value) / unit)
            off_slope = np.max(np.abs(own_slope - slope) / np.max(np.abs(slope), axis=1, keepdims=True))
            yield [f"{softness:g}", name, f"{off:.0e}", f"{off_slope:.0e}"]


def main() -> None:
    """Measure, and replace the page's tables."""
    jax.config.update("jax_enable_x64", True)
    x = keys()
    found = {
        "exact": markdown(["softness", *(f"{points} points" for points in POINTS)], list(exact(x))),
        "float32": markdown(["softness", "operator", "value", "gradient"], list(in_float32(x))),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, table in found.items():
        print(table, end="\n\n")
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        whole = lambda match, table=table: f"{match[1]}{table}\n{match[2]}"
        text, count = re.subn(pattern, whole, text, flags=re.DOTALL)
        assert count == 1, f"{PAGE} has no place for {name}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
