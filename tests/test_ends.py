"""Rows near an end by the keys near it, and quantiles near one: against rows that are written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import x64

import softjax as sj
from softjax._methods.softsort import ends
from softjax._methods.softsort.definition import DEFINITION
from softjax._modes import MODES

N = 2048
SOFTNESSES = {1e-5: True, 0.02: True, 0.3: None, 1e3: False}
"""And whether the keys near the end are enough for all but the masked row, for none, or not known here."""


def _keys():
    """Normal and uniform rows, one with ties, and one whose other keys are masked."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=N), rng.uniform(size=N), np.round(4 * rng.normal(size=N)) / 4, rng.normal(size=N)])
    x[3, rng.permutation(N)[40:]] = -1e9
    return x


def _by_value(x, dx):
    """Gradients summed over tied elements: which of them is at a rank has no say."""
    sums = lambda row, d: np.bincount(np.unique(row, return_inverse=True)[1], d, minlength=N)
    return np.stack([sums(row, d) for row, d in zip(x, dx, strict=True)])


@pytest.mark.parametrize(
    ("form", "mode", "ranks"),
    [
        ("apply", "c0", range(N - 32, N)),
        ("apply", "c1", range(3, 21)),
        ("apply", "c2", range(N - 200, N - 180)),
        ("transposed", "c1", range(N - 32, N)),
        ("transposed", "c2", range(3, 21)),
    ],
    ids=str,
)
def test_values_and_derivatives_are_those_of_the_definition(form, mode, ranks):
    """With respect to the keys, the softness and what is sent, in float64, whichever branch runs."""
    assert ends.serves(N, ranks)
    rng = np.random.default_rng(1)
    given, results = (N, len(ranks)) if form == "apply" else (len(ranks), N)

    def of(method):
        loss = lambda x, tau, y, w: jnp.sum(w * getattr(method, form)(x, ranks, y, tau, MODES[mode]))
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))

    forms = of(ends), of(DEFINITION)
    with x64():
        x, y, w = (jnp.asarray(a) for a in (_keys(), rng.normal(size=(4, given, 1)), rng.normal(size=(4, results, 1))))
        for softness, enough in SOFTNESSES.items():
            tau = jnp.full(4, softness)
            found = ends._enough(ends._near(x[:3], ranks), tau[:3], MODES[mode])
            assert enough is None or np.all(found == enough)
            for have, want in zip(*(jax.tree.leaves(form(x, tau, y, w)) for form in forms), strict=True):
                error = 1e-9 * np.max(np.abs(want)) + 2e-13 / softness  # of slopes that cancel, each up to 1 / softness
                if have.shape == x.shape:
                    have, want = _by_value(x, have), _by_value(x, want)
                np.testing.assert_allclose(have, want, rtol=1e-8, atol=error)


@pytest.mark.parametrize("mode", ["c0", "c2"])
def test_top_k_and_masks(mode):
    """Of values, lowest and highest, and masks of a known k, in float32, with the softness in one program."""
    x = jnp.asarray(_keys()[:2], jnp.float32)
    how = {"mode": mode, "method": "softsort"}
    with x64():
        exact = jnp.asarray(x, float)
        want = [
            jax.jit(lambda x, tau: sj.top_k(x, 32, softness=tau, implementation="dense", **how)[0]),
            jax.jit(lambda x, tau: sj.bottom_k_mask(x, 20, softness=tau, implementation="dense", **how)),
        ]
        want = {tau: [np.asarray(f(exact, tau)) for f in want] for tau in (0.01, 1.0)}
    top = jax.jit(lambda x, tau: sj.top_k(x, 32, softness=tau, **how)[0])
    low = jax.jit(lambda x, tau: sj.bottom_k_mask(x, 20, softness=tau, **how))
    for tau, (values, mask) in want.items():
        np.testing.assert_allclose(top(x, tau), values, atol=2e-6)
        np.testing.assert_allclose(low(x, tau), mask, atol=2e-5)


def test_one_branch_runs_for_what_is_mapped():
    """A `vmap` of different softness per row: the program still branches, on one answer for all."""
    x = jnp.asarray(_keys()[:2])
    top = jax.vmap(lambda row, tau: sj.top_k(row, 20, softness=tau, mode="c0", method="softsort")[0])
    tau = jnp.asarray([0.1, 0.2])
    batch = lambda x, tau: sj.top_k(x, 20, softness=tau, mode="c0", method="softsort")[0]
    branches = [jax.jit(of).lower(x, tau).as_text().count("stablehlo.case") for of in (top, batch)]
    assert branches[0] == branches[1] > 0  # a `select` for one of them is a branch less
    alone = [sj.top_k(row, 20, softness=t, mode="c0", method="softsort")[0] for row, t in zip(x, tau, strict=True)]
    np.testing.assert_allclose(top(x, tau), jnp.stack(alone), atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "q"), [*(("smooth", q) for q in (0.0, 0.01, 0.98, 0.9999, 1.0)), ("c1", 0.01), ("c1", 0.98)]
)
def test_a_quantile_near_an_end(mode, q):
    """Where q is one number that is known it needs no sort in the smooth mode, and is that of a traced q."""
    x = jnp.asarray(_keys()[:2], jnp.float32)
    known = jax.jit(lambda x: sj.quantile(x, q, axis=1, mode=mode, method="softsort"))
    traced = jax.jit(lambda x, q: sj.quantile(x, q, axis=1, mode=mode, method="softsort"))
    np.testing.assert_allclose(known(x), traced(x, q), atol=1e-6)
    if mode == "smooth":
        assert "stablehlo.sort" not in known.lower(x).as_text()


def test_quantiles_under_eager_transformations():
    """An array q, and a number, whose programs then are not made for it: the first neighbours stood for all of them."""
    x = jnp.asarray(_keys()[0, :40], jnp.float32)
    for q in (jnp.asarray([0.1, 0.5, 0.9]), np.asarray([0.3, 0.6]), 0.9, 1):
        of = lambda x, q=q: sj.quantile(x, q, method="softsort")
        want, slope = jax.vjp(jax.jit(of), x)
        have, own_slope = jax.vjp(of, x)
        np.testing.assert_allclose(have, want, atol=1e-6)
        np.testing.assert_allclose(own_slope(jnp.ones_like(have)), slope(jnp.ones_like(want))[0][None], atol=1e-6)
        np.testing.assert_allclose(jax.vmap(of)(jnp.stack([x, -x]))[0], want, atol=1e-6)


def test_max_of_large_keys():
    """A single row is written out: keys beyond a quarter of the largest number keep their values."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=N) * 3e37, jnp.float32)
    value, slope = jax.value_and_grad(lambda x: sj.max(x, mode="c0", method="softsort", softness=1.0))(x)
    assert value == jnp.max(x) and slope[jnp.argmax(x)] == 1
