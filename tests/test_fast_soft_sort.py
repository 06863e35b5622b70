"""Projection onto the permutahedron: blocks of isotonic regression, values and ranks at real sizes, gradients."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import x64
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

import softjax as sj
from softjax._methods.fast_soft_sort import isotonic

HOW = {"method": "fast_soft_sort", "mode": "c0"}
FORMS = {
    "in turn": jax.jit(isotonic._in_turn),
    "by halves": jax.jit(isotonic._by_halves),
    "by definition": jax.jit(isotonic.by_definition),
}


KINDS = (*cases.KINDS, "huge", "tiny")


# --- isotonic regression ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 33, 257])
def test_blocks(form, n):
    """Those of scipy in float64, on noise, on what ascends, descends, and rises but for an outlier that pools all."""
    rng = np.random.default_rng(n)
    noise = rng.normal(size=n)
    d = np.stack([noise, np.sort(noise), np.sort(noise)[::-1], np.arange(n) - 1e4 * (np.arange(n) == n - 1)])
    with x64():
        first, last = map(np.asarray, FORMS[form](jnp.asarray(d)))
    for row, begins, ends in zip(d, first, last, strict=True):
        bounds = isotonic_regression(row).blocks
        np.testing.assert_array_equal(np.unique(begins), bounds[:-1])
        np.testing.assert_array_equal(np.unique(ends), bounds[1:] - 1)
        assert np.all(begins <= np.arange(n)) and np.all(np.arange(n) <= ends)
        assert np.all(np.diff(begins) >= 0) and np.all(np.diff(ends) >= 0)


@given(st.lists(st.integers(-4, 4), min_size=9, max_size=9))
def test_forms_agree_at_ties(values):
    """Neighbours that are equal are of one block, and so may be blocks of equal means: the pooled means are one."""
    d = np.asarray(values, np.float32)
    pooled = isotonic_regression(d).x
    for form in FORMS.values():
        first, last = (np.asarray(a)[0] for a in form(jnp.asarray(d)[None]))
        np.testing.assert_allclose([d[a : b + 1].mean() for a, b in zip(first, last, strict=True)], pooled, atol=1e-6)
        equal = d[1:] == d[:-1]
        np.testing.assert_array_equal(first[1:][equal], first[:-1][equal])


@pytest.mark.parametrize("form", ["in turn", "by halves"])
def test_rows_do_not_meet(form):
    """A row's blocks end with it, whatever stands beside it, NaN included."""
    x = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    alone = FORMS[form](jnp.asarray(x[1:2]))
    for other in (np.nan, -np.inf, 1e30):
        x[0], x[2] = other, -1e30
        beside = FORMS[form](jnp.asarray(x))
        np.testing.assert_array_equal(np.stack(alone)[:, 0], np.stack(beside)[:, 1])


# --- laws ------------------------------------------------------------------------------------------------


ROWS = st.sampled_from([2, 3, 8]).flatmap(lambda n: st.lists(st.floats(-100, 100, width=32), min_size=n, max_size=n))
SOFTNESS = st.floats(1e-3, 1e3)


@functools.cache
def compiled(name, standardize, *more):
    """An operator under jit."""
    return jax.jit(lambda x, softness: getattr(sj, name)(x, *more, softness=softness, standardize=standardize, **HOW))


@given(ROWS, SOFTNESS, st.booleans())
def test_laws(row, softness, standardize):
    """Values ascend, lie within the range and keep the sum; so do ranks, and a mask; none knows the keys' order."""
    with x64():
        x = jnp.asarray(row)
        n, spread = len(row), float(jnp.ptp(x)) + 1e-9 * float(jnp.max(jnp.abs(x))) + 1e-300
        y = np.asarray(compiled("sort", standardize)(x, softness))
        assert np.all(np.diff(y) >= -1e-12 * spread)
        assert y[0] >= min(row) - 1e-12 * spread and y[-1] <= max(row) + 1e-12 * spread
        np.testing.assert_allclose(y.sum(), np.sum(row), rtol=0, atol=1e-11 * n * max(np.abs(row).max(), 1e-300))
        order = np.random.default_rng(n).permutation(n)
        np.testing.assert_array_equal(compiled("sort", standardize)(x[order], softness), y)
        r = np.asarray(compiled("rank", standardize)(x, softness))
        np.testing.assert_allclose(compiled("rank", standardize)(x[order], softness), r[order], rtol=0, atol=1e-9)
        np.testing.assert_allclose(r.sum(), n * (n + 1) / 2, rtol=1e-9)
        assert r.min() >= 1 - 1e-9 and r.max() <= n + 1e-9
        # The larger the key the smaller its rank.
        assert np.all(np.diff(r[np.argsort(row, kind="stable")]) <= 1e-9 * n)
        mask = np.asarray(compiled("top_k_mask", standardize, 1.5)(x, softness))
        assert mask.min() >= 0 and mask.max() <= 1 and abs(mask.sum() - 1.5) < 1e-9


def test_limits():
    """The hard operator to the last bit at a softness small enough, and the mean at a large one."""
    x = cases.sample((4, 100), 3, np.float32)
    np.testing.assert_array_equal(sj.sort(x, softness=1e-6, **HOW), np.sort(x))
    np.testing.assert_array_equal(sj.sort(x, softness=1e-30, standardize=False, **HOW), np.sort(x))
    np.testing.assert_array_equal(sj.rank(x, softness=1e-6, **HOW), sj.rank(x, mode="hard"))
    tied = np.round(x)
    np.testing.assert_allclose(sj.rank(tied, softness=1e-6, **HOW), sj.rank(tied, mode="hard"), rtol=1e-6)
    most = float(jnp.finfo(jnp.float32).max)
    largest = jnp.asarray([most, 0, -most, 1e30])
    np.testing.assert_array_equal(sj.sort(largest, **HOW), jnp.sort(largest))
    mean = np.broadcast_to(x.mean(-1, keepdims=True), x.shape)
    np.testing.assert_allclose(sj.sort(x, softness=1e9, **HOW), mean, atol=1e-6)
    np.testing.assert_allclose(sj.rank(x, softness=1e9, **HOW), np.full_like(x, 50.5), rtol=1e-6)


def test_units():
    """Standardised keys have none; else the softness of ranks is in theirs, that of values in one over theirs."""
    x = cases.sample((3, 40), 4, np.float32)
    for scale in (2.0**-100, 0.125, 2.0**100):
        y = sj.sort(scale * x, softness=0.5, **HOW)
        np.testing.assert_array_equal(y / scale, sj.sort(x, softness=0.5, **HOW))
        np.testing.assert_array_equal(sj.rank(scale * x, **HOW), sj.rank(x, **HOW))
        plain = HOW | {"standardize": False}
        y = sj.sort(scale * x, softness=0.5 / scale, **plain)
        np.testing.assert_allclose(y / scale, sj.sort(x, softness=0.5, **plain), rtol=1e-6, atol=1e-6)
        r = sj.rank(scale * x, softness=0.5 * scale, **plain)
        np.testing.assert_allclose(r, sj.rank(x, softness=0.5, **plain), rtol=1e-6)


def test_strength_of_other_libraries():
    """Theirs, in whole ranks, times or over n - 1 (docs/faq.md)."""
    x, n, strength = cases.sample(30, 14), 30, 2.5
    how, ranks = HOW | {"standardize": False}, np.arange(1.0, 31.0)
    with x64():
        values = sj.sort(jnp.asarray(x), softness=strength / (n - 1), **how)
        found = sj.rank(jnp.asarray(x), descending=False, softness=strength * (n - 1), **how)
    np.testing.assert_allclose(values, oracle.on_permutahedron(ranks / strength, np.sort(x)), atol=1e-12)
    expected = oracle.on_permutahedron(np.sort(x) / strength, ranks)
    np.testing.assert_allclose(np.sort(found), expected, atol=1e-12)


def test_mask_is_that_of_transport():
    """To two anchors, in c0: the one formula."""
    x = cases.sample((3, 40), 5, np.float32)
    how = {"softness": 0.3, "mode": "c0", "standardize": False}
    mask = sj.top_k_mask(x, 7.25, method="fast_soft_sort", **how)
    np.testing.assert_array_equal(mask, sj.top_k_mask(x, 7.25, method="ot", **how))


# --- real sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [4_096, pytest.param(100_000, marks=pytest.mark.slow)])
def test_float32_of_long_rows(kind, n, standardize):
    """Within float32's rounding of the float64 oracle, from a softness where nothing is pooled to one where all is."""
    x = cases.lying(kind, n).astype(np.float32)
    exact = x.astype(np.float64)
    spread = np.ptp(exact)
    unit = (exact.std() if spread else 1.0) if not standardize else 1.0
    eps = float(jnp.finfo(jnp.float32).eps)
    for softness in (1e-4, 0.03, 0.3, 10.0):
        if kind in ("huge", "tiny") and not standardize:
            by_value, by_rank = softness / unit, softness * unit
        else:
            by_value = by_rank = softness
        how = HOW | {"standardize": standardize}
        actual = compiled("sort", standardize)(x, by_value)
        expected = [oracle.sort(row, softness=by_value, **how) for row in exact]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=40 * eps * max(spread, np.abs(exact).max()))
        actual = compiled("ranking", standardize)(x, by_rank)
        expected = [oracle.ranking(row, softness=by_rank, **how) for row in exact]
        # A key is known to its rounding, which is worth so many ranks.
        steps = n * np.abs(exact).max() / by_rank / (exact.std() if standardize and spread else 1.0)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=40 * eps * (n + min(steps, n * n)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """float32's result, rounded once."""
    x = jnp.asarray(cases.sample((2, 200), 6, np.float32), dtype)
    for name in ("sort", "rank", "max"):
        wide = getattr(sj, name)(x.astype(jnp.float32), axis=-1, softness=0.5, **HOW)
        actual = getattr(sj, name)(x, axis=-1, softness=0.5, **HOW)
        np.testing.assert_array_equal(actual, wide.astype(dtype))


# --- NaN and infinities ----------------------------------------------------------------------------------


def test_infinities_stay_apart():
    """They keep their places; the others are those of the same anchors, without them."""
    x = cases.sample(20, 7, np.float32)
    for low, high in ((1, 0), (0, 2), (3, 2)):
        row = np.concatenate([np.full(low, -np.inf), x, np.full(high, np.inf)]).astype(np.float32)
        softness, n = 0.7, len(row)
        plain = {"softness": softness, "standardize": False}
        y = np.asarray(sj.sort(np.random.default_rng(0).permutation(row), **plain, **HOW))
        anchors = np.linspace(0, 1, n)[low : n - high] / softness
        np.testing.assert_allclose(y[low : n - high], oracle.on_permutahedron(anchors, np.sort(x)), rtol=0, atol=1e-5)
        assert np.all(y[:low] == -np.inf) and np.all(y[n - high :] == np.inf)
        r = np.asarray(sj.ranking(row, descending=False, **plain, **HOW))
        np.testing.assert_allclose(r[:low], (low - 1) / 2)
        np.testing.assert_allclose(r[n - high :], n - 1 - (high - 1) / 2)
        ranks = np.linspace(0, 1, n)[low : n - high]
        inside = oracle.on_permutahedron(np.sort(x) / softness, ranks) * (n - 1)
        np.testing.assert_allclose(np.sort(r[low : n - high]), inside, rtol=0, atol=1e-4)
        mask = sj.top_k_mask(row, high + 2.0, **plain, **HOW)
        assert np.all(mask[:low] == 0) and np.all(mask[n - high :] == 1)
        slopes = jax.grad(
            lambda x, low=low, high=high, plain=plain, n=n: sj.sort(x, **plain, **HOW)[low : n - high].sum()
        )
        found = slopes(jnp.asarray(row))
        np.testing.assert_allclose(found, np.isfinite(row).astype(np.float32), atol=1e-6)


def test_nan_spoils_its_row():
    """All of it, and no other; a softness of NaN, too."""
    x = cases.sample((3, 30), 8, np.float32)
    x[1, 4] = np.nan
    for name in ("sort", "rank", "top_k_mask", "median"):
        more = (3,) if name == "top_k_mask" else ()
        y = np.asarray(getattr(sj, name)(x, *more, axis=-1, **HOW))
        assert np.all(np.isnan(y[1])) and np.all(np.isfinite(y[[0, 2]])), name
        alone = getattr(sj, name)(x[2], *more, axis=-1, **HOW)
        np.testing.assert_allclose(alone, y[2], rtol=1e-6)
        y = np.asarray(
            jax.jit(lambda t, name=name, more=more: getattr(sj, name)(x[2], *more, axis=-1, softness=t, **HOW))(np.nan)
        )
        assert np.all(np.isnan(y)), name


# --- derivatives -----------------------------------------------------------------------------------------


def test_jacobian():
    """Of values the projection on the blocks' means, of ranks what is left of it, times a slope."""
    x = np.sort(cases.sample(12, 9))
    n, for_values, for_ranks = len(x), 0.3, 3.0
    how = HOW | {"standardize": False}
    with x64():
        by_value = np.asarray(jax.jacrev(lambda x: sj.sort(x, softness=for_values, **how))(jnp.asarray(x)))
        ranks = lambda x: sj.ranking(x, descending=False, softness=for_ranks, **how)
        by_rank = np.asarray(jax.jacfwd(ranks)(jnp.asarray(x)))

    def means(d):
        bounds = isotonic_regression(d).blocks
        blocks = [np.full((b - a, b - a), 1 / (b - a)) for a, b in zip(bounds, bounds[1:], strict=False)]
        out = np.zeros((n, n))
        for a, block in zip(bounds, blocks, strict=False):
            out[a : a + len(block), a : a + len(block)] = block
        return out

    pooled = means(np.linspace(0, 1, n) / for_values - x)
    assert 1 < np.linalg.matrix_rank(pooled) < n
    np.testing.assert_allclose(by_value, pooled, atol=1e-12)
    pooled = means(x / for_ranks - np.linspace(0, 1, n))
    assert 1 < np.linalg.matrix_rank(pooled) < n
    np.testing.assert_allclose(by_rank, (np.eye(n) - pooled) * (n - 1) / for_ranks, atol=1e-10)


def test_gradients_at_ties():
    """Tied keys are told apart by their order for values, and share a block for ranks."""
    x = jnp.asarray([2.0, 1.0, 1.0, 0.0])
    plain = {"softness": 0.3, "standardize": False}
    weights = jnp.asarray([1.0, 2.0, 3.0, 5.0])
    slopes = jax.grad(lambda x: weights @ sj.sort(x, **plain, **HOW))(x)
    np.testing.assert_allclose(slopes, [5, 2, 3, 1], atol=1e-6)
    jacobian = jax.jacrev(lambda x: sj.ranking(x, descending=False, **plain, **HOW))(x)
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = np.array([[0.5, -0.5], [-0.5, 0.5]]) * 3 / 0.3
    np.testing.assert_allclose(jacobian, expected, atol=1e-5)


@functools.cache
def slopes(standardize):
    """Of a sum of values and a mask, by keys and by softness, under jit."""
    how = HOW | {"standardize": standardize}

    def total(x, t):
        y = sj.sort(x, softness=t, **how) + sj.top_k_mask(x, 7.5, softness=t, **how)
        return jnp.sum(y @ jnp.cos(jnp.arange(300.0)))

    return jax.jit(jax.grad(total, (0, 1)))


@pytest.mark.parametrize("standardize", [True, False])
def test_gradients_are_finite(standardize):
    """By keys and by softness, at a tiny softness, a huge one, and between."""
    for kind in KINDS if standardize else KINDS[:5]:  # slopes by the softness are numbers of no float there
        x = jnp.asarray(cases.lying(kind, 300), jnp.float32)
        for softness in (1e-37, 1e-6, 0.3, 1e6, 1e38):
            assert all(np.all(np.isfinite(a)) for a in slopes(standardize)(x, softness)), (kind, softness)


def test_second_derivatives():
    """By keys and softness, standardised, against differences of the gradient."""
    x, direction = cases.sample(15, 10), np.random.default_rng(1).normal(size=15)
    weights = np.random.default_rng(2).normal(size=15)
    with x64():
        for name in ("sort", "ranking"):
            loss = lambda t, name=name: jnp.vdot(
                weights, getattr(sj, name)(x + t[0] * direction, softness=0.4 + t[1], **HOW)
            )
            at = jnp.zeros(2)
            found = np.asarray(jax.hessian(loss)(at))
            step = 1e-6
            ahead = [jax.grad(loss)(at.at[i].add(step)) - jax.grad(loss)(at.at[i].add(-step)) for i in range(2)]
            np.testing.assert_allclose(found, np.stack(ahead) / (2 * step), rtol=1e-4, atol=1e-5 * np.abs(found).max())


def test_gate_changes_nothing():
    """There is no P to stop the gradient through."""
    x = jnp.asarray(cases.sample((2, 20), 11), jnp.float32)
    both = [jax.grad(lambda x, g=g: sj.sort(x, gated_grad=g, **HOW)[:, :5].sum())(x) for g in (True, False)]
    np.testing.assert_array_equal(*both)


# --- transforms ------------------------------------------------------------------------------------------


def test_transforms():
    """jit, vmap of vmap, checkpoint, and a batch and a length that are symbols."""
    x = jnp.asarray(cases.sample((2, 3, 16), 12), jnp.float32)

    def both(x):
        return sj.sort(x, softness=0.6, **HOW) + sj.rank(x, softness=0.6, **HOW)

    expected = both(x)
    np.testing.assert_allclose(jax.jit(both)(x), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.vmap(both))(x), expected, rtol=1e-6, atol=1e-6)
    loss = lambda f: jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(x)
    np.testing.assert_allclose(loss(jax.checkpoint(both)), loss(both), rtol=1e-5, atol=1e-5)
    shape = jax.export.symbolic_shape("b, n")
    exported = jax.export.export(jax.jit(both))(jax.ShapeDtypeStruct(shape, jnp.float32))
    np.testing.assert_allclose(exported.call(x[0]), expected[0], rtol=1e-6, atol=1e-6)


def test_elsewhere_than_on_cpus():
    """What is lowered for a GPU holds no loop over elements: as many dependent steps for a long row as for a batch."""
    shape = jax.ShapeDtypeStruct((4, 1_000), jnp.float32)
    text = jax.export.export(jax.jit(lambda x: sj.sort(x, **HOW)), platforms=["cuda"])(shape).mlir_module()
    assert text.count("stablehlo.while") == 10  # one for each doubling
    text = jax.export.export(jax.jit(lambda x: sj.sort(x, **HOW)), platforms=["cpu"])(shape).mlir_module()
    assert text.count("stablehlo.while") == 2


# --- what there is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["c0", "hard"])
def test_no_indices(mode):
    """Asking for them is one error, in the hard mode too; top_k gives None."""
    x, how = cases.sample((2, 6), 13, np.float32), {"method": "fast_soft_sort", "mode": mode}
    asked = {
        "argsort": (),
        "argmax": (),
        "argmin": (),
        "argtop_k": (2,),
        "argquantile": (0.3,),
        "argpercentile": (30,),
        "argmedian": (),
        "soft_permutation": (),
    }
    for name, more in asked.items():
        with pytest.raises(ValueError, match=r"`method` \(='fast_soft_sort'\) must be one with soft indices"):
            getattr(sj, name)(x, *more, axis=-1, **how)
    with pytest.raises(ValueError, match="must be one with soft indices"):
        sj.sort((x, x), **how)
    for function in (sj.top_k, sj.bottom_k, sj.top_k_st):
        values, index = function(x, 2, **how)
        assert values.shape == (2, 2) and index is None
    jax.grad(lambda x: sj.top_k_st(x, 2, **how)[0].sum())(jnp.asarray(x))


def test_modes():
    """c0 alone."""
    for mode in ("smooth", "c1", "c2"):
        with pytest.raises(ValueError, match="must be 'hard' or 'c0', the modes of the method 'fast_soft_sort'"):
            sj.sort(np.ones(3), method="fast_soft_sort", mode=mode)
