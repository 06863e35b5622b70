"""The numerical contract as properties: distributions, order, equivariance, independence of rows, edges, limits."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import COMBINATIONS, INDEX_NAMES, METHODS, SOFT_MODES, Case, tolerance, x64
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import softjax as sj

SHAPE = (3, 6)
N = SHAPE[-1]
EPS = np.finfo(np.float32).eps
# Multiples of 1/32 below 4 in size make ties and near-ties common and differences exact.
tied = npst.arrays(np.int32, SHAPE, elements=st.integers(-127, 127)).map(lambda a: (a / 32).astype(np.float32))
wide = npst.arrays(np.float32, SHAPE, elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False))
softness = st.floats(-1.3, 1.0).map(lambda e: float(10**e))
VALUES = ("sort", "max", "min", "top_k")
any_softness = st.floats(-6.0, 3.0).map(lambda e: float(10**e))


def numpy_bundle(mode, method, x, soft):
    """The bundle's results with a softness for every row, or one for all: one program serves every law."""
    return cases.numpy_bundle(mode, method, x, np.broadcast_to(np.float32(soft), SHAPE[:-1]))


def allowed(x, soft, method, size=None):
    """float32's rule for one call on rows of length N."""
    size = max(1.0, np.abs(x).max()) if size is None else size
    return tolerance("float32", N, size * cases.conditioning(x, N, soft, method), method)


def mass(soft, method):
    """How far a row's sum may be from one. Column sums of a plan inherit the rounding of potentials as large as
    1 / softness, for each of the N elements with a sensitivity of at most 1/4."""
    return tolerance("float32", N) + (N / 4 * EPS / soft if method == "ot" else 0)


@COMBINATIONS
@given(x=st.one_of(tied, wide), soft=any_softness)
def test_rows_are_distributions(mode, method, x, soft):
    """Every returned distribution lies in [0, 1] and sums to one, at any scale and softness."""
    out = numpy_bundle(mode, method, x, soft)
    for name in INDEX_NAMES:
        assert (out[name] >= 0).all() and (out[name] <= 1 + N * EPS).all(), name
        np.testing.assert_allclose(out[name].sum(-1), 1, rtol=0, atol=mass(soft, method), err_msg=name)


@COMBINATIONS
@given(x=st.one_of(tied, wide), soft=any_softness)
def test_soft_sort_is_monotone(mode, method, x, soft):
    """Soft order statistics ascend, and stay between the smallest and the largest element."""
    out = numpy_bundle(mode, method, x, soft)
    slack = tolerance("float32", N, 1 + np.abs(x).max()) + np.abs(x).max() * mass(soft, method)
    assert (np.diff(out["sort"], axis=-1) >= -slack).all()
    assert (np.diff(out["top_k"], axis=-1) <= slack).all()
    for name in VALUES:
        value = out[name].reshape(3, -1)
        assert (value >= x.min(-1, keepdims=True) - slack).all(), name
        assert (value <= x.max(-1, keepdims=True) + slack).all(), name
    ranks = out["ranking"]
    slack = tolerance("float32", N, N) + N * mass(soft, method)
    assert (ranks >= -slack).all() and (ranks <= N - 1 + slack).all()


@COMBINATIONS
@given(x=tied, soft=softness, seed=st.integers(0, 99))
def test_permutation_equivariance(mode, method, x, soft, seed):
    """Permuted input: values stay, ranks and the columns of the rows are permuted."""
    order = np.random.default_rng(seed).permutation(N)
    out, moved = numpy_bundle(mode, method, x, soft), numpy_bundle(mode, method, x[:, order], soft)
    for name, value in out.items():
        expected = value[..., order] if name in INDEX_NAMES or name == "ranking" else value
        np.testing.assert_allclose(moved[name], expected, rtol=0, atol=N * allowed(x, soft, method), err_msg=name)


@COMBINATIONS
@given(x=tied, soft=softness)
def test_reversal(mode, method, x, soft):
    """max(-x) = -min(x): the other end of the order is the order of the negated row."""
    out, negated = numpy_bundle(mode, method, x, soft), numpy_bundle(mode, method, -x, soft)
    atol = N * allowed(x, soft, method)
    np.testing.assert_allclose(negated["sort"], -out["sort"][:, ::-1], rtol=0, atol=atol)
    np.testing.assert_allclose(negated["max"], -out["min"], rtol=0, atol=atol)
    np.testing.assert_allclose(negated["ranking"], N - 1 - out["ranking"], rtol=0, atol=atol)


@COMBINATIONS
@given(x=tied, soft=softness)
def test_operators_agree(mode, method, x, soft):
    """max and min are the ends of the soft sort and top_k its tail, but for ot, where fewer ranks are wanted."""
    out = numpy_bundle(mode, method, x, soft)
    atol = N * allowed(x, soft, method)
    np.testing.assert_allclose(out["max"], (out["argmax"] * x).sum(-1), rtol=0, atol=atol)
    for name in ("sort", "top_k"):
        value = np.einsum("bkn,bn->bk", out["arg" + name], x)
        np.testing.assert_allclose(out[name], value, rtol=0, atol=atol, err_msg=name)
    if method != "ot":
        np.testing.assert_allclose(out["max"], out["sort"][:, -1], rtol=0, atol=atol)
        np.testing.assert_allclose(out["min"], out["sort"][:, 0], rtol=0, atol=atol)
        np.testing.assert_allclose(out["top_k"], out["sort"][:, : -cases.K - 1 : -1], rtol=0, atol=atol)


@COMBINATIONS
@given(x=tied, other=st.one_of(wide, st.just(np.full(SHAPE, np.nan, np.float32))), soft=softness)
def test_batch_rows_are_independent(mode, method, x, other, soft):
    """Whatever stands in the other rows, also NaN, a row's results do not move by a bit."""
    changed = np.stack([x[0], other[1], other[2]])
    out, moved = numpy_bundle(mode, method, x, soft), numpy_bundle(mode, method, changed, soft)
    for name in out:
        np.testing.assert_array_equal(moved[name][0], out[name][0], err_msg=name)


@COMBINATIONS
def test_softness_of_other_rows(mode, method):
    """The same with an array of softness: the other rows' values do not reach row 0."""
    x = cases.sample(SHAPE, 20, np.float32)
    out = [numpy_bundle(mode, method, x, np.array([0.1, *rest], np.float32)) for rest in ((0.1, 0.1), (1e-4, 50.0))]
    for name in out[0]:
        np.testing.assert_array_equal(out[1][name][0], out[0][name][0], err_msg=name)


@COMBINATIONS
@given(values=npst.arrays(np.int32, (3, 3), elements=st.integers(-3, 3)), soft=any_softness)
def test_ties(mode, method, values, soft):
    """Equal elements share weights and ranks; rows of ties only keep their value."""
    x = np.concatenate([values, values], 1).astype(np.float32)
    out = numpy_bundle(mode, method, x, soft)
    for name in INDEX_NAMES:
        left, right = np.split(out[name], 2, axis=-1)
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance("float32", N, 1, method), err_msg=name)
    np.testing.assert_allclose(*np.split(out["ranking"], 2, axis=-1), rtol=0, atol=tolerance("float32", N, N, method))
    constant = np.repeat(values[:, :1], N, 1).astype(np.float32)
    out = numpy_bundle(mode, method, constant, soft)
    np.testing.assert_allclose(out["sort"], constant, rtol=0, atol=tolerance("float32", N, 4, method))
    np.testing.assert_allclose(out["argsort"], 1 / N, rtol=0, atol=tolerance("float32", N, 1, method))
    np.testing.assert_allclose(out["ranking"], (N - 1) / 2, rtol=0, atol=tolerance("float32", N, N, method))


SMALLEST = (*cases.REPRESENTATIVES, *(("hard", method) for method in METHODS))


@pytest.mark.parametrize(
    ("mode", "method"),
    [pytest.param(mode, method, marks=cases.slow_unless((mode, method) in SMALLEST)) for mode, method in cases.pairs()],
)
def test_smallest_sizes(mode, method):
    """n = 1, k = n, k = 1, and an empty batch."""
    values, indices = ("sort", "max", "min", "median"), ("argsort", "argmax", "argmin", "argmedian")
    out = cases.compiled_bundle(mode, method, (*values, *indices, "ranking"))(jnp.asarray([[2.5], [-1.0]]), 0.1)
    for name in values:
        np.testing.assert_array_equal(np.ravel(out[name]), [2.5, -1.0], err_msg=name)
    for name in indices:
        np.testing.assert_array_equal(np.ravel(out[name]), [1.0, 1.0], err_msg=name)
    np.testing.assert_array_equal(out["ranking"], [[0.0], [0.0]])

    x = cases.sample((2, 4), 21, np.float32)
    run = jax.jit(lambda x: [sj.top_k(x, k, mode=mode, method=method) for k in (1, 4)])
    for k, (values, index) in zip((1, 4), run(x), strict=True):
        plan = np.stack([oracle.argtop_k(row, k, softness=0.1, mode=mode, method=method) for row in x.astype(float)])
        atol = tolerance("float32", 4, cases.conditioning(x, 4, 0.1, method) * np.abs(x).max(), method)
        np.testing.assert_allclose(index, plan, rtol=0, atol=atol)
        np.testing.assert_allclose(values, np.einsum("bkn,bn->bk", plan, x), rtol=0, atol=atol)

    names = ("sort", "argtop_k", "ranking", "median")
    for name, value in cases.compiled_bundle(mode, method, names)(jnp.zeros((0, 4)), 0.1).items():
        assert value.shape == (0, *jax.eval_shape(Case(name, mode, method, -1), x).shape[1:]), name


@COMBINATIONS
@pytest.mark.parametrize("place", [0, 3, 5])
def test_nan_stays_in_its_row(mode, method, place):
    """A NaN makes all of its row's results NaN and leaves the other rows as they were."""
    x = cases.sample(SHAPE, 22, np.float32)
    spoiled = x.copy()
    spoiled[1, place] = np.nan
    out, clean = numpy_bundle(mode, method, spoiled, 0.1), numpy_bundle(mode, method, x, 0.1)
    for name in out:
        assert np.isnan(out[name][1]).all(), name
        np.testing.assert_array_equal(out[name][[0, 2]], clean[name][[0, 2]], err_msg=name)


@pytest.mark.parametrize("method, mode", [("softsort", "c1"), ("neuralsort", "smooth"), ("ot", "smooth")])
def test_nan_stays_in_its_row_of_a_gradient(method, mode):
    """Of keys and of a payload, either of which may hold it; a walk may lay rows end to end."""
    how = {"method": method, "mode": mode}

    def loss(x, y):
        p = sj.soft_permutation(x, **how)
        values = sj.sort(x, **how, standardize=True), sj.rank(x, axis=-1, **how)
        return sum(jnp.sum(jnp.sin(a)) for a in (p @ y, p.T @ y, *values))

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    x, y = cases.sample((3, 20), 23, np.float32), cases.sample((3, 20, 1), 24, np.float32)
    clean = gradient(x, y)
    for place in (0, 1):
        spoiled = [x.copy(), y.copy()]
        spoiled[place][1, 4] = np.nan
        for have, want in zip(gradient(*spoiled), clean, strict=True):
            np.testing.assert_array_equal(have[::2], want[::2])
            assert place == 0 or np.isnan(have[1]).all()


INFINITE = np.array(
    [[0.5, np.inf, -1, 2, 0, 1], [0.5, -np.inf, -1, 2, 0, 1], [np.inf, -np.inf, -1, 2, 0, 1]], np.float32
)


@pytest.mark.parametrize("mode", SOFT_MODES)
@pytest.mark.parametrize("method", ["softsort", "neuralsort"])
def test_infinities_are_hard(mode, method):
    """Infinite elements take the places that the hard operator gives them, and no finite result becomes NaN."""
    out, hard = numpy_bundle(mode, method, INFINITE, 0.1), numpy_bundle("hard", method, INFINITE, 0.1)
    for name in VALUES:
        assert not np.isnan(out[name]).any(), name
        infinite = np.isinf(hard[name])
        np.testing.assert_array_equal(np.isinf(out[name]), infinite, err_msg=name)
        np.testing.assert_array_equal(out[name][infinite], hard[name][infinite], err_msg=name)
    for name in INDEX_NAMES:
        np.testing.assert_allclose(out[name].sum(-1), 1, rtol=0, atol=tolerance("float32", N), err_msg=name)
    np.testing.assert_array_equal(out["argmax"][[0, 2]], hard["argmax"][[0, 2]])
    assert np.isfinite(out["ranking"]).all()


@pytest.mark.parametrize("mode", SOFT_MODES)
def test_infinities_under_ot(mode):
    """A concrete infinity raises; a traced one makes its row NaN, and its row only."""
    for name in ("sort", "argtop_k", "ranking", "median"):
        with pytest.raises(ValueError, match="finite"):
            Case(name, mode, "ot", -1)(jnp.asarray(INFINITE))
    x = cases.sample(SHAPE, 23, np.float32)
    spoiled = x.copy()
    spoiled[1, 2] = np.inf
    out, clean = numpy_bundle(mode, "ot", spoiled, 0.1), numpy_bundle(mode, "ot", x, 0.1)
    for name in out:
        assert np.isnan(out[name][1]).all(), name
        np.testing.assert_array_equal(out[name][[0, 2]], clean[name][[0, 2]], err_msg=name)


@pytest.mark.parametrize(("mode", "method"), cases.REPRESENTATIVES)
def test_x64_changes_nothing(mode, method):
    """float32 in: the results are those of float32, whether x64 is on or off; a number is the softness of every row."""
    x = cases.sample(SHAPE, 24, np.float32)
    without = numpy_bundle(mode, method, x, 0.1)
    with x64():
        within = cases.numpy_bundle(mode, method, x, 0.1)
    for name in without:
        assert within[name].dtype == without[name].dtype == np.float32
        np.testing.assert_allclose(within[name], without[name], rtol=0, atol=allowed(x, 0.1, method, N), err_msg=name)


@functools.cache
def compiled_slopes(mode, method):
    """Gradient of weighted results in x and softness, of every kind: all rows, few rows, ranks, a blend."""

    def loss(x, soft):
        out = jax.tree.leaves(cases.bundle(mode, method, x, soft, ("sort", "top_k", "ranking", "quantile")))
        return sum(
            jnp.sum(value * jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape)) for value in out
        )

    return jax.jit(jax.grad(loss, (0, 1)))


@COMBINATIONS
@given(x=st.one_of(tied, wide), soft=any_softness)
def test_gradients_are_finite(mode, method, x, soft):
    """For every softness from 1e-6 to 1e3, with ties and at any scale."""
    dx, dsoft = compiled_slopes(mode, method)(jnp.asarray(x), soft)
    assert np.isfinite(dx).all() and np.isfinite(dsoft)


@COMBINATIONS
@pytest.mark.parametrize("soft", [1e-6, 1e-3, 1e3])
def test_gradients_are_finite_at_the_edges(mode, method, soft):
    """Constant rows, neighbours one rounding apart, and rows over many scales, at the ends of the range."""
    x = np.stack([np.full(N, 0.3), 1 + np.arange(N) * EPS, 10.0 ** np.arange(-3, N - 3)]).astype(np.float32)
    dx, dsoft = compiled_slopes(mode, method)(jnp.asarray(x), soft)
    assert np.isfinite(dx).all() and np.isfinite(dsoft)


@COMBINATIONS
@given(order=st.permutations(range(N)))
def test_hard_is_the_limit(mode, method, order):
    """Well-separated elements at softness 1e-6: the soft operators equal the hard ones."""
    x = np.stack([order, np.roll(order, 1), np.negative(order)]).astype(np.float32)
    out, hard = numpy_bundle(mode, method, x, 1e-6), numpy_bundle("hard", method, x, 1e-6)
    for name in out:
        # A quantile by neuralsort blends half-integer ranks; only at whole ranks is its limit the hard blend.
        if not (method == "neuralsort" and "quantile" in name):
            np.testing.assert_allclose(
                out[name], hard[name], rtol=0, atol=tolerance("float32", N, N, method), err_msg=name
            )


@cases.elementwise_cases(modes=SOFT_MODES)
def test_elementwise_hard_limit(name, mode, options):
    """The same for the elementwise operators, away from the jump."""
    args = cases.elementwise_inputs(name, np.float32)
    soft = cases.compiled_elementwise(name, mode, options)(args, 1e-6)
    hard = cases.compiled_elementwise(name, "hard", options)(args, 1e-6)
    at_jump = args[0] == args[1] if len(args) == 2 else np.zeros(args[0].shape, bool)
    np.testing.assert_allclose(
        np.asarray(soft)[~at_jump], np.asarray(hard)[~at_jump], rtol=0, atol=tolerance("float32", 1, 3)
    )


@cases.elementwise_cases(modes=SOFT_MODES)
@given(x=npst.arrays(np.float32, 40, elements=st.floats(-1e4, 1e4, width=32)), soft=any_softness)
def test_elementwise_range(name, mode, options, x, soft):
    """SoftBools stay in [0, 1], mod between 0 and its period, and everything is finite."""
    operator = cases.ELEMENTWISE[name]
    args = operator.legal((x, x[::-1].copy())[: operator.arity])
    out = np.asarray(cases.compiled_elementwise(name, mode, options)(args, soft))
    assert np.isfinite(out).all()
    if operator.divides:
        share, slack = out / args[1], 4 * np.finfo(np.float32).eps
        assert (share >= -slack).all() and (share <= 1 + slack).all()
    elif name in ("sigmoidal", "heaviside") or len(args) == 2:
        assert (out >= 0).all() and (out <= 1).all()
    if name == "sign":
        assert (np.abs(out) <= 1).all()
    if name == "abs" or (name in ("relu", "softrelu") and not options):
        assert (out >= 0).all()


@cases.elementwise_cases(modes=SOFT_MODES)
def test_elementwise_nan_and_infinity(name, mode, options):
    """NaN in, NaN out; at infinity the soft operator is the hard one."""
    for values in ([np.nan, 0.3, 0.4], [np.inf, -np.inf, 0.3]):
        first = np.array(values + [0.25] * 37, np.float32)
        args = (first, np.full(40, 0.75, np.float32))[: cases.ELEMENTWISE[name].arity]
        out = np.asarray(cases.compiled_elementwise(name, mode, options)(args, 0.1))
        hard = np.asarray(cases.compiled_elementwise(name, "hard", options)(args, 0.1))
        if np.isnan(first[0]):
            assert np.isnan(out[0]) and np.isfinite(out[1:]).all()
        else:
            np.testing.assert_allclose(out[:2], hard[:2], rtol=0, atol=tolerance("float32", 1, 3))


@pytest.mark.parametrize("soft", [0.0, -1.0, np.nan])
@COMBINATIONS
def test_traced_softness_that_is_not_positive(mode, method, soft):
    """It gives NaN, never garbage."""
    x = cases.sample(SHAPE, 25, np.float32)
    for name, value in numpy_bundle(mode, method, x, soft).items():
        assert np.isnan(value).all(), name


@cases.elementwise_cases(modes=SOFT_MODES)
def test_elementwise_traced_softness_that_is_not_positive(name, mode, options):
    """The same for the elementwise operators."""
    args = cases.elementwise_inputs(name, np.float32)
    for soft in (0.0, -1.0):
        assert np.isnan(cases.compiled_elementwise(name, mode, options)(args, soft)).all()


LOWEST = float(jnp.finfo(jnp.float32).min)


@functools.cache
def masked_slopes(mode, method, scale):
    """Gradients of a steep loss in a row's operators, and their results."""

    def loss(x):
        out = cases.bundle(mode, method, x, 0.1, ("sort", "max", "ranking"))
        weights = scale * jnp.cos(jnp.arange(x.shape[-1], dtype=x.dtype))
        kept = jnp.sum(weights * out["sort"]) + scale * jnp.sum(out["max"]) + jnp.sum(weights * out["ranking"])
        return kept, out

    return jax.jit(jax.grad(loss, has_aux=True))


@pytest.mark.parametrize("method, mode", [("softsort", "smooth"), ("softsort", "c1"), ("neuralsort", "smooth")])
@pytest.mark.parametrize("n", [5, 20])
def test_masked_keys_are_far_below(method, mode, n):
    """Keys at the lowest float lie below all others, which keep their values, and no product with one overflows."""
    x = cases.sample(n, 26, np.float32)
    x[:2] = LOWEST
    run = masked_slopes(mode, method, 4.0)
    slope, out = run(jnp.asarray(x))
    np.testing.assert_allclose(out["sort"][:2], x[:2], rtol=tolerance("float32", n))
    assert np.isfinite(slope).all() and np.isfinite(out["ranking"]).all()
    nearby = np.concatenate([x.max() - 100 * np.ones(2), x[2:]])  # as good as unreachable
    near_slope, near_out = run(jnp.asarray(nearby, jnp.float32))
    np.testing.assert_allclose(slope, near_slope, rtol=0, atol=allowed(x[2:], 0.1, method, n) * 4 * n * 10)
    np.testing.assert_allclose(out["sort"][2:], near_out["sort"][2:], rtol=0, atol=allowed(x[2:], 0.1, method, n))


@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_standardised_rows_at_the_ends_of_the_range(mode):
    """With a masked key no z-score overflows: it is below the others, which its deviation makes equal."""
    x = np.array([0.3, LOWEST, -0.4, 1.0], np.float32)
    mask = np.asarray(sj.top_k_mask(jnp.asarray(x), 1, mode=mode))
    np.testing.assert_allclose(mask.sum(), 1, rtol=0, atol=tolerance("float32", 4, 1, "ot"))
    assert mask[1] < mask[[0, 2, 3]].min()
    slope = jax.grad(lambda x: 4 * sj.sort(x, mode=mode, method="ot").sum())(jnp.asarray(x))
    np.testing.assert_allclose(slope.sum(), 16, rtol=1e-3)


@pytest.mark.parametrize(("mode", "method"), cases.REPRESENTATIVES)
def test_the_ends_of_softness(mode, method):
    """The smallest softness gives the hard operator, the largest constant rows; gradients stay finite."""
    x = cases.sample(SHAPE, 27, np.float32)
    mean = np.broadcast_to(x.mean(-1, keepdims=True), SHAPE)
    for soft in (1.2e-38, 1e-20):
        out, hard = numpy_bundle(mode, method, x, soft), numpy_bundle("hard", method, x, soft)
        np.testing.assert_allclose(out["sort"], hard["sort"], rtol=0, atol=tolerance("float32", N, N, method))
    for soft in (1e20, 1e38):
        np.testing.assert_allclose(numpy_bundle(mode, method, x, soft)["sort"], mean, rtol=0, atol=1e-5)
    for soft in (1.2e-38, 1e-20, 1e38):
        for rows in (x, np.round(x), 0 * x):
            dx, dsoft = compiled_slopes(mode, method)(jnp.asarray(rows), soft)
            assert np.isfinite(dx).all() and np.isfinite(dsoft)
