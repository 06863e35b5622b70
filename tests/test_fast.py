"""The fast forms against the dense definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SOFT_MODES, x64

import softjax as sj
from softjax._methods.ot import method as ot
from softjax._methods.ot import semidual_newton as _transport

METHODS = ["softsort", "neuralsort", "ot"]
N = 150  # more elements than any form writes out as dense rows


def _keys():
    """Normal rows, rows with ties, and a constant row."""
    x = np.random.default_rng(0).normal(size=(4, N))
    x[1] = np.round(2 * x[1]) / 2
    x[2] = np.sort(x[2])[::-1]
    x[3] = 0.3
    return x


def _both(operator, method, mode, softness):
    """Value, and gradient with respect to x and softness, of a weighted sum: dense and fast."""
    x = jnp.asarray(_keys())
    weights = jnp.asarray(np.random.default_rng(1).normal(size=x.shape))

    def loss(x, softness, implementation):
        y = operator(x, axis=-1, softness=softness, mode=mode, method=method, implementation=implementation)
        return jnp.sum(weights * y), y

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    results = []
    for name in ("dense", "xla"):
        (dx, dsoftness), y = run(x, jnp.asarray(softness), name)
        results.append((y, dsoftness, _by_value(x, dx) if method == "softsort" else dx))
    return results


def _by_value(x, dx):
    """Gradients summed over tied elements: the scan differentiates |s_i - s_j| at a tie from one side."""
    return np.concatenate(
        [np.bincount(np.unique(row, return_inverse=True)[1], d) for row, d in zip(x, dx, strict=True)]
    )


@pytest.mark.parametrize("mode", SOFT_MODES)
@pytest.mark.parametrize("method", METHODS)
def test_sort_agrees_with_the_definition(method, mode):
    """Values and gradients in float64, to the solver's tolerance for transport."""
    # A softness off the lattice of the tied row's logits, where c0's derivative jumps.
    softness = 0.0123 if method == "ot" else 0.137
    with x64():
        dense, fast = _both(sj.sort, method, mode, softness)
    tolerance = 1e-6 if method == "ot" else 1e-10
    for want, have in zip(dense, fast, strict=True):
        np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance * np.max(np.abs(want)))


@pytest.mark.parametrize("method", METHODS)
def test_rank_agrees_with_the_definition(method):
    """Values and gradients in float64, smooth."""
    with x64():
        dense, fast = _both(sj.ranking, method, "smooth", 0.0123 if method == "ot" else 0.137)
    tolerance = 1e-6 if method == "ot" else 1e-9
    for want, have in zip(dense, fast, strict=True):
        np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance * np.max(np.abs(want)))


@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives(method, monkeypatch):
    """Forward over reverse agrees with the dense form's."""
    monkeypatch.setattr(ot, "_FEW", 10)
    jax.clear_caches()
    with x64():
        x = jnp.asarray(_keys()[:1, :40])
        direction = jnp.cos(jnp.arange(40.0, dtype=x.dtype))[None]

        def curvature(implementation):
            def loss(x):
                y = sj.sort(x, softness=0.3, method=method, implementation=implementation)
                return jnp.sum(jnp.sin(3 * y))

            return jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (direction,))[1])(x)

        want, have = curvature("dense"), curvature("xla")
    jax.clear_caches()
    np.testing.assert_allclose(have, want, rtol=1e-7, atol=1e-8 * np.max(np.abs(want)))


@pytest.mark.parametrize("method", METHODS)
def test_vmap_gives_the_rows(method):
    """vmap of the fast form equals the batch."""
    x = jnp.asarray(_keys(), jnp.float32)
    sort = jax.jit(lambda x: sj.sort(x, softness=0.1, method=method))
    batch, mapped = sort(x), jax.jit(jax.vmap(sort))(x)
    np.testing.assert_allclose(mapped, batch, rtol=1e-5, atol=1e-5)


def test_top_k_solves_once():
    """Values and rows of a transport come from one solve: as many loops as the rows alone."""
    x = jnp.zeros((2, 40))
    loops = lambda f: jax.jit(f).lower(x).as_text().count("stablehlo.while")
    both = loops(lambda x: sj.top_k(x, 3, method="ot"))
    assert both == loops(lambda x: sj.argtop_k(x, 3, method="ot")) > 0


def test_named_implementation_is_explained():
    """`explain` names what a call runs."""
    x = jnp.arange(8.0)
    assert sj.explain(sj.sort, x).implementation == "xla"
    assert sj.explain(sj.sort, x, implementation="dense").implementation == "dense"


@pytest.mark.parametrize("k", [1, 2, 9, 33])
def test_elimination_where_lu_would_gather_a_batch(k):
    """A TPU's solve of the pinned system: that of float64, and it is what a TPU's program holds."""
    rng = np.random.default_rng(k)
    coupling = np.triu(rng.uniform(size=(4, k, k)) ** 4, 1)
    coupling = coupling + coupling.transpose(0, 2, 1)
    matrix = np.eye(k) * coupling.sum(-1)[:, None] - coupling + (coupling.sum(-1).max(-1)[:, None, None] + 1) / k
    rhs = rng.normal(size=(4, k))
    single = jnp.asarray(matrix, jnp.float32), jnp.asarray(rhs, jnp.float32)
    exact = np.linalg.solve(*(np.asarray(a, np.float64) for a in (single[0], single[1][..., None])))[..., 0]
    atol = 4 * np.finfo(np.float32).eps * np.linalg.cond(matrix).max() * np.abs(exact).max()
    np.testing.assert_allclose(_transport._eliminate(*single), exact, rtol=0, atol=atol)
    solve = lambda a, b: _transport._solve(a, b, jnp.full(4, 1e-6, jnp.float32))
    for function, expected in ((jnp.linalg.solve, True), (solve, False)):
        traced = jax.jit(function).trace(single[0], single[1][..., None] if expected else single[1])
        assert ("LuDecomposition" in traced.lower(lowering_platforms=("tpu",)).as_text()) == expected
