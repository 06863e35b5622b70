"""Where the slowest lines of the standard set spend their time: the figures of docs/performance-notes.md.

    python perf/slowest.py               all of them
    python perf/slowest.py passes        passes over the plan that transport to many anchors makes, which no clock tells
    python perf/slowest.py transport     what a pass costs, and the blocks that it is made in
    python perf/slowest.py matrix        SoftSort's stored matrix, beside the plain formula

Milliseconds are of processor time, the least of several calls, one candidate after the other.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
from shapes import Case

import softjax as sj
from softjax._methods.ot import newton_cg

SHAPE = (4, 1024)
"""Of the slowest lines."""


class Passes(NamedTuple):
    """Of one call: passes over the plan, of which solver's evaluations and products H v."""

    all: int
    evaluations: int
    products: int


@contextmanager
def counted(entries: int) -> Iterator[Callable[[], Passes]]:
    """Count, in programs that are traced inside, at run time; `entries` are those of the plan."""
    found: Counter[str] = Counter()
    project, evaluated, curved = newton_cg.project, newton_cg.received, newton_cg._curved

    def count(name: str, amount: int = 1):
        jax.debug.callback(lambda: found.update({name: amount}))

    def projected(*arguments):
        p = project(*arguments)
        count("entries", p.size)
        return p

    def received(*arguments):
        sums = evaluated(*arguments)

        def counted_sums(psi):
            count("sums")
            return sums(psi)

        return counted_sums

    def product(*arguments):
        matvec = curved(*arguments)

        def matvec_counted(v):
            count("products")
            return matvec(v)

        return matvec_counted

    def result() -> Passes:
        jax.effects_barrier()
        return Passes(round(found["entries"] / entries), found["sums"] - found["products"], found["products"])

    with patch.multiple(newton_cg, project=projected, received=received, _curved=product):
        yield result


def passes(case: Case, gradient: bool) -> Passes:
    """Of a case's value, or its value and gradient."""
    x = case.keys().reshape(-1, case.shape[-1])
    jax.clear_caches()
    with counted(x.size * x.shape[-1]) as result:
        jax.block_until_ready((case.value_and_gradient() if gradient else case.soft)(x))
        found = result()
    jax.clear_caches()
    return found


def milliseconds(function: Callable, *arguments, repeats: int = 7) -> float:
    """The least processor time of a call, traced anew."""
    jax.clear_caches()
    program = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(program(*arguments))
    times = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(program(*arguments))
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def softmax_and_sum(x: jax.Array) -> jax.Array:
    """One pass over a plan and nothing else: a softmax over n anchors for each of n keys, and its column sums."""
    anchors = jnp.linspace(0.0, 1.0, x.shape[-1])
    return jnp.sum(jax.nn.softmax(x[:, None, :] * anchors[:, None] * 10, axis=1), axis=2)


def soft_rows(x: jax.Array) -> jax.Array:
    """SoftSort's matrix by its formula (Prillo and Eisenschlos, 2020), at the standard set's softness."""
    distances = jnp.abs(jnp.sort(x)[..., :, None] - x[..., None, :])
    return jax.nn.softmax(-distances / 0.1, axis=-1)


def show_passes() -> None:
    """Passes, evaluations and products."""
    print(f"{'passes over the plan':34}{'all':>6}{'evaluations':>13}{'H v':>6}")
    for operator in ("sort", "rank"):
        for gradient in (False, True):
            found = passes(Case(operator, "ot", SHAPE), gradient)
            what = f"{operator} 4 x 1,024 {'gradient' if gradient else 'forward'}"
            print(f"{what:34}{found.all:6}{found.evaluations:13}{found.products:6}")
    for mode in ("smooth", "c2", "c0"):
        for softness in (0.1, 0.01):
            case = Case("rank", "ot", (1000,), mode, softness)
            forward, both = passes(case, False), passes(case, True)
            more = f"{both.products - forward.products:6} more with the gradient"
            what = f"rank 1 x 1,000 {mode} {softness}"
            print(f"{what:34}{forward.all:6}{forward.evaluations:13}{forward.products:6}{more}")


def show_transport() -> None:
    """The cost of passes, and of blocks that are too small."""
    case = Case("sort", "ot", SHAPE)
    x = case.keys()
    all_passes = passes(case, False).all
    whole, one = milliseconds(case.soft, x), milliseconds(softmax_and_sum, x)
    print(f"ot sort 4 x 1,024: {whole:.1f} ms, {whole / all_passes:.1f} a pass; one softmax and its sums: {one:.1f} ms")
    for n in (2048, 4096, 8192):
        case = Case("sort", "ot", (1, n))
        x, least = case.keys(), newton_cg._KEYS
        with patch.object(newton_cg, "_KEYS", 1):
            small = milliseconds(case.value_and_gradient(), x, repeats=2)
        large = milliseconds(case.value_and_gradient(), x, repeats=2)
        print(f"ot sort 1 x {n:,} with gradient: {large:.0f} ms; in blocks of fewer than {least} keys {small:.0f} ms")


def show_matrix() -> None:
    """SoftSort's matrix."""
    x = Case("argsort", "softsort", SHAPE).keys()
    ours = lambda x: sj.argsort(x, softness=0.1, method="softsort")
    weights = jax.random.normal(jax.random.key(0), SHAPE[-1:])
    for name, function in (("softsort argsort", ours), ("the plain formula", soft_rows)):
        loss = lambda x, function=function: jnp.sum(function(x) * weights)
        derivative = lambda x, function=function: jax.vjp(function, x)[1](
            jnp.broadcast_to(weights, (*SHAPE, SHAPE[-1]))
        )
        forward, both = milliseconds(function, x), milliseconds(jax.value_and_grad(loss), x)
        print(f"{name}: {forward:.1f} ms, with the gradient of a weighted sum {both:.1f}, ", end="")
        print(f"the derivative without the sum {milliseconds(derivative, x):.1f}")


SECTIONS = {"passes": show_passes, "transport": show_transport, "matrix": show_matrix}


def main(arguments: Sequence[str]) -> None:
    """Print the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    for section in parser.parse_args(arguments).sections or SECTIONS:
        SECTIONS[section]()


if __name__ == "__main__":
    main(sys.argv[1:])
