"""The wrong answers known from elsewhere that this library must not give."""

from fractions import Fraction

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import COMBINATIONS, METHODS, MODES, SOFT_MODES, Case

import softjax as sj
from softjax import _quantile


@COMBINATIONS
def test_rows_do_not_leak(mode, method):
    """At a length that is no power of two every row of a batch has its own values, whatever its neighbours hold."""
    n = 7
    x = np.stack([cases.sample(n, 80), 1e3 + cases.sample(n, 81), -1e3 * np.ones(n)]).astype(np.float32)
    for name in ("sort", "ranking"):
        case = Case(name, mode, method, -1)
        batch = np.asarray(cases.compiled(case)(jnp.asarray(x), 0.1))
        for row, result, expected in zip(x, batch, case.expected(x, 0.1), strict=True):
            # Keys of 1e3 are spaced by its rounding, which standardisation and softness turn into logits.
            size = 1 + np.abs(row).max()
            atol = cases.tolerance("float32", n, cases.conditioning(row, n, 0.1, method) * size, method)
            np.testing.assert_allclose(result, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("mode", SOFT_MODES)
@pytest.mark.parametrize("softness", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_comparisons_stay_in_the_unit_interval(mode, softness, normalize):
    """equal, not_equal and isclose, also at equality and with tolerances larger than the softness."""
    a = jnp.linspace(-2, 2, 101)
    for b in (a, a + 0.05, a[::-1], a * 1e4):
        how = {"softness": softness, "mode": mode, "normalize": normalize}
        outs = [
            sj.equal(a, b, **how),
            sj.not_equal(a, b, **how),
            sj.isclose(a, b, **how),
            sj.isclose(a, b, 0.5, 2.0, **how),
        ]
        for out in outs:
            assert (out >= 0).all() and (out <= 1).all()
    np.testing.assert_allclose(sj.equal(a, a, **how), 1.0 if normalize else 0.5, rtol=1e-6)
    if normalize:
        np.testing.assert_allclose(sj.isclose(a, a, **how), 1.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("n", [300, 2500])
def test_hard_rank_in_16_bits(dtype, n):
    """Ranks are counted in at least float32 and rounded once: 256 and 257 do not become a count that got stuck."""
    x = jnp.asarray(np.random.default_rng(82).permutation(n) % 1000, dtype)
    exact = oracle.ranking(np.asarray(x, np.float64), 0.1, "hard", "softsort", descending=False)
    actual = sj.ranking(x, descending=False, mode="hard")
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, jnp.asarray(exact, jnp.float32).astype(dtype))
    np.testing.assert_array_equal(
        sj.rank(x, descending=False, mode="hard"), jnp.asarray(exact + 1, jnp.float32).astype(dtype)
    )


@pytest.mark.parametrize("method", METHODS)
def test_soft_rank_in_16_bits(method):
    """The soft ranks of 300 elements are those of float32, rounded once."""
    x = jnp.asarray(cases.sample(300, 83, np.float32), jnp.bfloat16)
    wide = sj.ranking(x.astype(jnp.float32), method=method)
    np.testing.assert_allclose(
        np.asarray(sj.ranking(x, method=method), np.float32), wide, rtol=float(jnp.finfo(jnp.bfloat16).eps), atol=1e-3
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_dtype_is_the_same_in_every_mode(dtype):
    """Changing the mode changes no dtype and no shape, for any operator."""
    x = jnp.asarray([[3, 1, 2], [0, 5, 4]]).astype(dtype)
    for name in cases.ARRAY:
        kinds = {
            tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(jax.eval_shape(Case(name, mode, method, -1), x)))
            for mode, method in cases.pairs()
        }
        assert len(kinds) == 1, name
    for name, operator in cases.ELEMENTWISE.items():
        kinds = {
            jax.eval_shape(lambda *a, n=name, o=operator, m=mode: o.call(n, a, 0.1, m), *(x, x)[: operator.arity]).dtype
            for mode in MODES
        }
        assert len(kinds) == 1, name


@pytest.mark.parametrize("softness", [2.0, 20.0, 200.0])
@pytest.mark.parametrize("mode", SOFT_MODES)
def test_round_at_large_softness(softness, mode):
    """round(10., softness=2) is close to 10: no window cuts the sum of steps."""
    x = np.array([10.0, -10.0, 0.0, 123.25, -37.5])
    expected = oracle.soft_round(x, softness, mode)
    np.testing.assert_allclose(
        sj.round(jnp.asarray(x, jnp.float32), softness=softness, mode=mode), expected, rtol=2e-5, atol=1e-5
    )
    if softness == 2.0:
        np.testing.assert_allclose(expected[:1], 10.0, atol=1e-2)


def test_round_far_from_zero():
    """At 1e5 the result still has float32's precision and the gradient is finite: nothing grows with |x|."""
    x = jnp.asarray([1e5 + 0.25, -1e5 - 0.25, 1e7])
    expected = [oracle.soft_round(np.array([0.25 if abs(v) < 1e6 else 0.0]), 0.1, "smooth")[0] for v in x]
    expected = np.sign(x) * (np.round(np.abs(x)) + np.array(expected))
    np.testing.assert_allclose(sj.round(x), expected, rtol=3e-7)
    assert np.isfinite(jax.grad(lambda x: sj.round(x).sum())(x)).all()


@pytest.mark.parametrize("mode", SOFT_MODES)
@pytest.mark.parametrize("decimals", [-37, -3, 5, 37])
def test_round_differentiates_alike_at_any_decimals(decimals, mode):
    """At 37 decimals a cotangent that is divided by their power of ten has no digits left."""
    gradient = jax.grad(lambda x, soft, n: sj.round(x, n, mode=mode, softness=soft), (0, 1))
    slope, slower = gradient(jnp.float32(0.3 * 10.0**-decimals), jnp.float32(0.1), decimals)
    wanted, wanted_slower = gradient(jnp.float32(0.3), jnp.float32(0.1), 0)
    np.testing.assert_allclose(slope, wanted, rtol=1e-5)
    np.testing.assert_allclose(float(slower) * 10.0**decimals, wanted_slower, rtol=1e-5)
    assert gradient(jnp.float32(0.3), jnp.float32(0.1), 10)[0] == 1  # beyond the precision: the identity


@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize("name", ["top_k", "max", "median"])
def test_ot_gradients_in_float32_at_2048(name, mode):
    """Finite, not zero, and close to float64's."""
    x = cases.sample(2048, 84, np.float32)
    case = Case(name, mode, "ot", -1)
    weights = np.random.default_rng(85).normal(size=2)

    @jax.jit
    def slope(x, weights):
        def loss(x):
            out = jax.tree.leaves(case(x, 0.1))[0]
            return jnp.vdot(weights[: out.size], out)

        return jax.grad(loss)(x)

    narrow = slope(jnp.asarray(x), jnp.asarray(weights, jnp.float32))
    assert np.isfinite(narrow).all() and np.abs(narrow).max() > 0
    with cases.x64():
        wide = np.asarray(slope(jnp.asarray(x, jnp.float64), jnp.asarray(weights)))
    atol = cases.tolerance("float32", 2048, cases.conditioning(x, 2048, 0.1, "ot"), "ot") * np.abs(wide).max()
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=atol)


@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_ot_values_at_2048_need_no_float64(mode):
    """float32's top_k by ot is float64's to float32's marginals."""
    x = cases.sample(2048, 86, np.float32)
    narrow, plan = sj.top_k(jnp.asarray(x), 4, mode=mode, method="ot")
    with cases.x64():
        wide, _ = sj.top_k(jnp.asarray(x, jnp.float64), 4, mode=mode, method="ot")
    atol = cases.tolerance("float32", 2048, cases.conditioning(x, 2048, 0.1, "ot"), "ot")
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=4 * atol)
    np.testing.assert_allclose(plan.sum(-1), 1, rtol=0, atol=atol)


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
def test_transport_reaches_the_masses(mode):
    """On tied keys, also at a softness so large that a Newton step empties an anchor of a sparse mode."""
    x = np.round(2 * np.random.default_rng(87).normal(size=(4, 4096))) / 2
    for softness in (0.3, 1.0, 3.0):
        top = sj.soft_permutation(jnp.asarray(x, jnp.float32), softness=softness, mode=mode, method="ot")[-32:]
        assert (top.solver_info().marginal_error < 5e-3).all(), softness


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
@pytest.mark.parametrize(("n", "k"), [(4096, 32), (512, 512)])
def test_transport_stops_at_rounding(mode, n, k):
    """Steps that only shuffle the rounding of sums of many keys are not taken: it took up to 33 of them."""
    x = jnp.asarray(cases.sample((4, n), 88, np.float32))
    info = sj.soft_permutation(x, softness=0.1, mode=mode, method="ot")[-k:].solver_info()
    assert (info.iterations <= 12).all() and (info.marginal_error < 1e-3).all()


INFINITE = np.float32(
    [
        [0, 1, 2, 3, 4, np.inf],
        [0, 1, 2, np.inf, np.inf, np.inf],
        [-np.inf, -np.inf, 0, 1, 2, 3],
        [-np.inf, 0, 1, 2, 3, np.inf],
        [np.inf] * 6,
        [-np.inf] * 6,
        [-np.inf] * 3 + [np.inf] * 3,
    ]
)
RANKS = (0.0, 0.2, 0.4, 0.5, 0.55, 0.8, 0.9, 1.0)  # of six elements: 0, 1, 2, 2.5, 2.75, 4, 4.5, 5


def _weights(q, rule):
    """numpy's weights of six elements in ascending order."""
    r = round(q * 5, 6)
    low, high = int(np.floor(r)), int(np.ceil(r))
    rounded = {"linear": r, "lower": low, "higher": high, "midpoint": (low + high) / 2, "nearest": low}[rule]
    if rule == "nearest" and r - low > 0.5:
        rounded = high
    return np.maximum(1 - np.abs(np.arange(6) - rounded), 0)


def _without_zeros(weights, values):
    """The sum of what has a weight."""
    with np.errstate(invalid="ignore"):
        return np.sum(np.where(weights > 0, weights * values, 0), axis=-1)


RULES = ("linear", "lower", "higher", "midpoint", "nearest")


@pytest.mark.parametrize(
    ("mode", "method", "rule"),
    [
        *(("hard", "ot", rule) for rule in RULES),
        *((mode, method, "linear") for method in ("softsort", "neuralsort") for mode in SOFT_MODES),
        *(("c1", method, rule) for method in ("softsort", "neuralsort") for rule in RULES[1:]),
    ],
)
def test_quantiles_beside_infinities(mode, method, rule):
    """No 0 times infinity: every quantile of well separated keys is numpy's, its gradient the weights, where finite."""

    @jax.jit
    def both(x):
        function = lambda x: sj.quantile(
            x, jnp.asarray(RANKS), -1, quantile_method=rule, softness=0.01, mode=mode, method=method
        )
        out, pull = jax.vjp(function, x)
        return out, pull(jnp.isfinite(out).astype(out.dtype))[0]

    out, gradient = both(jnp.asarray(INFINITE))
    weights = np.stack([_weights(q, rule) for q in RANKS])
    expected = _without_zeros(weights[:, None], INFINITE)
    atol = cases.tolerance("float32", 6, 5)
    np.testing.assert_allclose(out, expected, rtol=0, atol=atol)
    ones = np.einsum("mb,mn->bn", np.isfinite(expected).astype(float), weights)
    np.testing.assert_allclose(gradient, ones, rtol=0, atol=100 * atol)  # the weights inherit the logits' rounding


@pytest.mark.parametrize("mode", ["hard", "smooth"])
def test_names_of_quantiles_beside_infinities(mode):
    """Percentiles, medians, straight-through and index forms are quantiles: the same values, finite rows, in q too."""
    x, how = jnp.asarray(INFINITE[:4]), {"mode": mode, "softness": 0.01}
    expected = [_without_zeros(_weights(q, "linear"), INFINITE[:4]) for q in (0.8, 0.5)]
    for q, out in zip((0.8, 0.5), (sj.percentile(x, 80.0, -1, **how), sj.median(x, -1, **how)), strict=True):
        np.testing.assert_allclose(out, expected[q == 0.5], rtol=1e-5)
    np.testing.assert_allclose(sj.median_st(x, -1, softness=0.01), expected[1], rtol=1e-6)
    rows = sj.argquantile(x, 0.8, -1, **how)
    np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-6)
    slope = jax.grad(lambda q: sj.quantile(x[0], q, **how))(0.8)
    assert np.isfinite(slope)


@pytest.mark.parametrize("mode", SOFT_MODES)
@pytest.mark.parametrize("x", [[-337.0, np.inf], [300.0, 300.0, 300.0, -np.inf], [np.inf, -5e3, 1.0, np.inf]], ids=str)
def test_an_infinity_is_not_outweighed(x, mode):
    """Finite elements of the other sign do not pull half of an infinity, or a share of it at ties, to a number."""
    for q in (0.1, 0.2, 0.5, 0.6, 0.9):
        want = sj.quantile(jnp.asarray(x), q, mode="hard")
        have, slope = jax.value_and_grad(sj.quantile)(jnp.asarray(x), q, mode=mode, softness=0.01)
        assert np.isfinite(slope).all()
        if not np.isfinite(want):
            assert have == want, (q, have)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_hard_quantiles_in_16_bits(dtype):
    """Ranks are counted in at least float32: q and q (n - 1) are no numbers of the 16-bit floats."""
    b = jnp.zeros(2002, dtype).at[7].set(1)
    for q in (0.999, np.float32(0.999), jnp.asarray(0.999)):
        for out in (sj.quantile(b, q, mode="hard"), sj.quantile_st(b, q), sj.percentile(b, 100 * q, mode="hard")):
            assert out.dtype == dtype and out == 0
    assert sj.quantile(b, 1.0, mode="hard") == 1
    assert sj.argquantile(b, 0.999, mode="hard")[7] == 0
    many = jnp.zeros(65600, dtype)
    assert sj.median(many, mode="hard") == 0 and sj.median_st(many) == 0
    x = jnp.asarray(cases.sample(1201, 89, np.float32)).astype(dtype)
    for rule in ("linear", "lower", "higher", "nearest"):
        want = jnp.quantile(x.astype(jnp.float32), 0.37, method=rule).astype(dtype)
        np.testing.assert_array_equal(sj.quantile(x, 0.37, quantile_method=rule, mode="hard"), want)


@pytest.mark.parametrize("n", [7, 2**24 + 1, 2**24 + 2, 3 * 2**24 + 12345, 2**31 - 1])
def test_ranks_of_quantiles(n):
    """q (n - 1) as a whole number and a fraction, exact where float32 holds no rank; its slope is n - 1."""
    q = jnp.asarray([0.0, 2.0**-30, 1 / 3, 0.5, 0.75, 0.999, 1 - 2.0**-24, 1.0])
    whole, fraction = jax.jit(lambda q: _quantile._wanted(q, n))(q)
    exact = [Fraction(float(v)) * (n - 1) for v in q]
    allowed = float(jnp.finfo(jnp.float32).eps) * 8 * max(1, n / 2**24)
    for w, f, r in zip(whole.tolist(), fraction.tolist(), exact, strict=True):
        assert 0 <= f <= 1 and abs(float(Fraction(w) + Fraction(f) - r)) <= allowed, (w, f, float(r))
    slope = jax.grad(lambda q: _quantile._wanted(q, n)[1])(jnp.asarray(0.3))
    np.testing.assert_allclose(slope, n - 1, rtol=1e-6)


@pytest.mark.parametrize("flag", [jax.debug_nans, jax.debug_infs])
@pytest.mark.parametrize("mode", ["smooth", "c1", "hard"])
def test_debugging_flags(mode, flag):
    """A result without NaN and infinity raises under neither flag, eagerly too: nothing is built of them."""
    grid = jnp.asarray([-0.7, 0.0, 0.3, 0.5, 1.0, 2.5])
    # As debug_nans asks, an infinite input is no NaN.
    grid = jnp.append(grid, jnp.inf) if flag is jax.debug_nans else grid
    with flag(True):
        for name, operator in cases.ELEMENTWISE.items():
            args = operator.legal((grid, grid[::-1])[: operator.arity])
            operator.call(name, args, 0.1, mode)
            operator.call(name, args, jnp.full(args[0].shape, 0.1), mode)
        jax.grad(lambda s: sj.relu(grid[:6], softness=s, mode=mode).sum())(0.1)
        jax.vmap(lambda s: sj.abs(0.3, softness=s, mode=mode))(grid[2:6])
        if flag is jax.debug_nans:
            sj.argsort(grid[:4], softness=0.1, mode=mode)


@pytest.mark.parametrize("mode", SOFT_MODES)
def test_steps_stay_in_the_unit_interval_at_their_ends(mode):
    """In float32, where the polynomial of c2 rounds to more than 1."""
    t = np.linspace(4, 5, 20001, dtype=np.float32)
    for out in (sj.sigmoidal(t, softness=1.0, mode=mode), sj.sign(t, softness=1.0, mode=mode)):
        assert (out <= 1).all()
    assert (sj.sigmoidal(-t, softness=1.0, mode=mode) >= 0).all()


FORMS = [("softsort", "smooth"), ("softsort", "c1"), ("neuralsort", "smooth"), ("ot", "c1")]


@pytest.mark.parametrize(("method", "mode"), FORMS)
def test_extremes_of_keys_and_payloads(method, mode):
    """NaN spoils its row; an infinity of a payload reaches the rows that give it weight, and no others."""
    x, y = cases.sample((3, 20), 90, np.float32), cases.sample((3, 20), 91, np.float32)

    @jax.jit
    def results(x, y):
        p = sj.soft_permutation(x, method=method, mode=mode)
        mask = sj.top_k_mask(x, 3, method=method, mode=mode)
        return (p @ y[..., None])[..., 0], (p.T @ y[..., None])[..., 0], mask, p.todense()

    clean = results(x, y)
    spoiled = x.copy()
    spoiled[1, 3] = np.nan
    for have, want in zip(results(spoiled, y), clean, strict=True):
        assert np.isnan(have[1]).all()
        np.testing.assert_array_equal(have[::2], want[::2])
    weight = np.asarray(clean[3])[1] > 0
    for i, reached in enumerate((weight[:, 4], weight[4])):
        for extreme in (np.inf, -np.inf):
            payload = y.copy()
            payload[1, 4] = extreme
            have = results(x, payload)[i]
            np.testing.assert_array_equal(have[::2], clean[i][::2])
            np.testing.assert_array_equal(have[1][reached], extreme)
            assert np.isfinite(have[1][~reached]).all()


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        *(("c0", "softsort"), ("c2", "softsort"), ("smooth", "neuralsort"), ("c1", "neuralsort")),
        *(pytest.param("smooth", method, marks=pytest.mark.slow) for method in ("softsort", "ot")),
    ],
)
def test_large_cotangents_and_payloads_stay_in_their_row(mode, method):
    """Infinite or near the largest float, in one row: the others' gradients and products are as without it."""
    x = jnp.asarray(cases.sample((3, 19), dtype=np.float32))
    how = {"mode": mode, "method": method}

    @jax.jit
    def results(c):
        p = sj.soft_permutation(x, **how)
        back = [jax.vjp(lambda x, f=f: f(x, **how), x)[1](c)[0] for f in (sj.sort, sj.rank)]
        ahead = [jax.jvp(lambda x, f=f: f(x, **how), (x,), (c,))[1] for f in (sj.sort, sj.rank)]
        return *back, *ahead, p @ c[..., None], p.T @ c[..., None]

    ones = jnp.ones_like(x)
    for large in (np.inf, 3e38, 1e37):
        for have, want in zip(results(ones.at[1].set(large)), results(ones), strict=True):
            np.testing.assert_array_equal(have[::2], want[::2])
    for have, want in zip(results(ones.at[1].set(2.0**100))[:2], results(ones), strict=False):
        scale = np.max(np.abs(want)) + 1e-3
        np.testing.assert_allclose(have[1] / 2.0**100, want[1], rtol=0, atol=1e-4 * scale)  # and it is of its size


@pytest.mark.parametrize("mode", SOFT_MODES)
def test_softness_near_the_largest_float(mode):
    """A clip is the constant limit, the middle of its bounds."""
    clip = lambda softness: sj.clip(jnp.float32(0.5), 0.0, 1.0, softness=softness, mode=mode)
    np.testing.assert_array_equal([clip(3.4e38), jax.jit(clip)(jnp.float32(3.4e38))], [0.5, 0.5])


@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize("name", ["rank", "sort"])
def test_ties_by_softsort_are_symmetric(name, mode):
    """Tied elements with equal cotangents get equal gradients, whatever their order, and the forms agree."""
    x = np.round(2 * cases.sample(20, 92)) / 2
    order = np.random.default_rng(93).permutation(20)
    weights = np.cos(np.arange(20)) if name == "rank" else np.ones(20)

    def slope(form, x, weights):
        loss = lambda x: jnp.vdot(jnp.asarray(weights), getattr(sj, name)(x, softness=0.7, mode=mode, **form))
        return np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(x)))

    with cases.x64():
        dense, fast = (slope({"implementation": i}, x, weights) for i in ("dense", "xla"))
        moved = slope({"implementation": "xla"}, x[order], weights[order])
        even = slope({"implementation": "xla"}, x, np.ones(20))
    atol = cases.tolerance("float64", 20, cases.conditioning(x, 20, 0.7, "softsort") * 20)
    np.testing.assert_allclose(fast, dense, rtol=0, atol=atol)
    np.testing.assert_allclose(moved, fast[order], rtol=0, atol=atol)
    for value in np.unique(x):
        np.testing.assert_allclose(np.ptp(even[x == value]), 0, atol=atol)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("mode", ["smooth", "c0"])
def test_rows_of_a_long_batch_tell_of_a_nan(mode, standardize):
    """A compiler's vectorised maximum may drop one, and did where there are many rows."""
    x = np.stack([cases.sample(2048, seed) for seed in range(3)]).astype(np.float32)
    how = {"method": "softsort", "mode": mode, "standardize": standardize}
    results = jax.jit(
        lambda x: (
            sj.sort(x, **how),
            sj.top_k(x, 20, **how)[0],
            sj.rank(x, **how),
            sj.top_k_mask(x, 20, **how),
        )
    )
    for nan in (np.nan, -np.nan):
        x[1:, 77] = nan
        for y in results(x):
            assert np.isfinite(y[0]).all()
            assert np.isnan(y[1:]).all()


@COMBINATIONS
def test_no_quantiles(mode, method):
    how = {"axis": -1, "method": method, "mode": mode}
    assert sj.quantile(jnp.ones((3, 20)), jnp.zeros(0), **how).shape == (0, 3)
    assert sj.argquantile(jnp.ones((3, 20)), jnp.zeros(0), **how).shape == (0, 3, 20)


@pytest.mark.parametrize("mode", SOFT_MODES)
def test_periods_and_places_at_the_ends_of_the_range(mode):
    """Values are the hard ones where nothing soft is left, and gradients are finite."""
    far = jnp.asarray([2.0**24 + 2, -(2.0**24) - 2, 2.0**40, 3e38, 1e-38])
    for name in ("floor", "ceil", "trunc"):
        soft = lambda x, tau: getattr(sj, name)(x, softness=tau, mode=mode)  # noqa: B023
        np.testing.assert_allclose(soft(far[:4], 0.1), far[:4], rtol=1e-7)
        assert np.isnan(jax.jit(soft)(far, -1.0)).all()
        slopes = jax.grad(lambda x, tau: soft(x, tau).sum(), (0, 1))(far, 1e-6)  # noqa: B023
        assert all(np.isfinite(slope).all() for slope in slopes)
    cases_of_mod = [(1e-20, 1e-19), (1.0, 1e38), (-1.0, 1e38), (3e34, 1e35), (1e35, 1e35), (1e30, 1.0), (1e30, 1e-7)]
    for x, period in (*cases_of_mod, (5.3, 1e-3), (2.0, 1e-12), (5.3, 1e17)):
        for softness in (1e-6, 0.1, 1e38):
            soft = lambda *a: sj.mod(*a[:2], softness=a[2], mode=mode)
            assert np.isfinite(jax.grad(soft, (0, 1, 2))(x, period, softness)).all(), (x, period, softness)
    for x, period in cases_of_mod[:5]:
        assert sj.mod(x, period, mode=mode) == jnp.mod(x, period)
    assert sj.mod(1.0, 0.0, mode=mode) != sj.mod(1.0, 0.0, mode=mode)
