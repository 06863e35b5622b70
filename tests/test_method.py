"""A method of the user's own, which only writes rows: every operator by it, and its errors."""

from dataclasses import dataclass

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SOFT_MODES

import softjax as sj

N = 21


@dataclass(frozen=True)
class Distances(sj.AbstractMethod):
    """SoftSort with distances to a power: its definition for 1, for other powers a method of its own."""

    power: int = 1
    name = "distances"

    def rows(self, x, ranks, tau, mode):
        s = jnp.take(jnp.sort(x, axis=-1), jnp.asarray(ranks), axis=-1)
        return mode.project(-(jnp.abs(s[:, :, None] - x[:, None, :]) ** self.power) / tau[:, None, None])


def results(x, **how):
    """Values of all kinds of operators."""
    rows = sj.argsort(x, axis=0, **how)
    return {
        "argsort": rows,
        "sort": sj.sort(x, axis=0, descending=True, **how),
        "payload": sj.sort((x, jnp.cos(x)), axis=0, **how)[1],
        "top_k": sj.top_k(x, 2, axis=0, **how),
        "max": sj.max(x, axis=0, **how),
        "median": sj.median(x, axis=0, **how),
        "argquantile": sj.argquantile(x, jnp.asarray([0.2, 0.9]), axis=0, **how),
        "mask": sj.top_k_mask(x, 2.5, axis=0, **how),
        "transpose": sj.soft_permutation(x, axis=0, **how).T @ jnp.ones((N, 1), x.dtype),
    }


@pytest.mark.parametrize(
    "mode", [*(pytest.param(m, marks=cases.slow_unless(m in ("smooth", "c2"))) for m in SOFT_MODES), "hard"]
)
def test_operators_by_rows_alone(mode):
    """Those of SoftSort's definition, with gradients; the methods differ in `rank` alone, which is of no row."""
    x = jnp.asarray(cases.sample((N, 2), dtype=np.float32))
    x = x.at[0, 1].set(jnp.inf)

    def loss(x, method, implementation):
        out = results(x, mode=mode, method=method, implementation=implementation, softness=0.3)
        leaves = [jnp.where(jnp.isfinite(leaf), leaf, 0) for leaf in jax.tree.leaves(out)]
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves), out

    both = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=(1, 2))
    (_, have), slopes = both(x, Distances(), None)
    (_, want), expected = both(x, "softsort", "dense")
    atol = cases.tolerance("float32", N, cases.conditioning(x[1:], N, 0.3, "softsort"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=atol), have, want)
    np.testing.assert_allclose(slopes, expected, atol=20 * atol)


def test_rank_is_the_normalised_expectation():
    """Of the columns of P, and the hard one as softness vanishes."""
    x = jnp.asarray(cases.sample((2, N), dtype=np.float32))
    p = np.asarray(sj.argsort(x, method=Distances(2)), np.float64)
    want = np.einsum("brn,r->bn", p, np.arange(N)) / p.sum(axis=1)
    np.testing.assert_allclose(sj.ranking(x, descending=False, method=Distances(2)), want, rtol=1e-5, atol=1e-5)
    hard = sj.rank(x, mode="hard", method=Distances(2))
    np.testing.assert_allclose(sj.rank(x, method=Distances(2), softness=1e-6), hard, atol=1e-5)


def test_equal_methods_share_programs():
    """An eager call with a new instance compiles nothing that an equal one has compiled."""
    x = jnp.asarray(cases.sample((2, N), dtype=np.float32))
    traced = []

    @dataclass(frozen=True)
    class Counted(Distances):
        def rows(self, x, ranks, tau, mode):
            traced.append(self)
            return super().rows(x, ranks, tau, mode)

    first = sj.sort(x, method=Counted(2))
    count = len(traced)
    np.testing.assert_array_equal(sj.sort(x, method=Counted(2)), first)
    assert count == len(traced) > 0
    sj.sort(x, method=Counted(3))
    assert len(traced) > count


def test_straight_through_and_explain():
    """Both take an instance."""
    x = jnp.asarray(cases.sample((N,), dtype=np.float32))
    np.testing.assert_array_equal(sj.sort_st(x, method=Distances(2)), jnp.sort(x))
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(sj.sort_st(x, method=Distances(2)) ** 2))(x)))
    assert "xla" in str(sj.explain(sj.sort, x, method=Distances(2)))


class Impostor(Distances):
    """By the name of another."""

    name = "ot"


def test_errors():
    """What is wrong with a method, and what it cannot do."""
    x = jnp.zeros(3)

    @dataclass
    class Mutable(sj.AbstractMethod):
        def rows(self, x, ranks, tau, mode):
            raise AssertionError

    for wrong in (Distances, "bubble", None):
        with pytest.raises(ValueError, match="`method` .* must be one of 'softsort'.*an instance of `AbstractMethod`"):
            sj.sort(x, method=wrong)
    with pytest.raises(TypeError, match="`method` .* must be hashable, as a frozen dataclass is"):
        sj.sort(x, method=Mutable())
    with pytest.raises(NotImplementedError, match="'distances': it has no kernels. implementation='xla' can"):
        sj.sort(x, method=Distances(), implementation="pallas_interpret")
    with pytest.raises(NotImplementedError, match="'ot': it has no kernels"):
        sj.argsort(x, method=Impostor(), implementation="pallas_interpret")
    with pytest.raises(ValueError, match="`method` .* must be 'ot' in a soft mode"):
        sj.soft_permutation(x, method=Distances()).solver_info()
    with pytest.raises(TypeError, match="abstract method '?rows'?"):
        sj.AbstractMethod()
