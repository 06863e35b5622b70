"""Values against the oracle, in float64 for the whole table and in float32 for representatives."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import COMBINATIONS, METHODS, SOFT_MODES, Case, tolerance, x64

import softjax as sj


def assert_close(actual, expected, atol):
    """Leaf by leaf: same shape, and values within an absolute tolerance."""
    actual = jax.tree.leaves(actual)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=0, atol=atol)


def allowed(case, x, dtype, softness):
    """The rule for one line of the table; a hard operator has no logits. Ranks are as large as n."""
    n = case.length(x.shape)
    size = max(1.0, np.abs(x).max()) * (n if "rank" in case.name else 1)
    if case.mode == "hard":
        return tolerance(dtype, n, size)
    return tolerance(dtype, n, size * cases.conditioning(x, n, softness, case.method), case.method)


@cases.array_cases()
def test_array_operator(case):
    """Every operator x mode x method, and every axis of each operator, in float64."""
    x, softness = cases.sample(cases.SQUARE if case.axis == -1 else cases.SHAPE), 0.2
    with x64():
        actual = case(jnp.asarray(x), softness)  # eager: forms are compiled once and shared by the axes
    assert_close(actual, case.expected(x, softness), allowed(case, x, "float64", softness))


@pytest.mark.parametrize(
    ("mode", "method"),
    [pytest.param(*c, marks=cases.slow_unless(c in cases.ONE_MODE)) for c in cases.PRODUCT],
)
def test_float32_at_64(mode, method):
    """float32 under jit on longer rows, every method."""
    x = cases.sample((3, 64), 1, np.float32)
    names = ("sort", "ranking", "argsort", "argmax", "argtop_k", "argmedian")
    actual = cases.numpy_bundle(mode, method, x, 0.1, names)
    for name in names:
        case = Case(name, mode, method, -1)
        assert_close(actual[name], case.expected(x, 0.1), allowed(case, x, "float32", 0.1))


@COMBINATIONS
@pytest.mark.parametrize("axis", [-1, 0])
def test_softness_per_row(mode, method, axis):
    """A softness of the input's shape without the axis, for values, indices, ranks and blends."""
    x = cases.sample(cases.SQUARE, 2)
    softness = np.linspace(0.05, 1.0, cases.SQUARE[0])
    with x64():
        for name in ("sort", "argtop_k", "ranking", "max", "quantile"):
            case = Case(name, mode, method, axis)
            actual = case(jnp.asarray(x), jnp.asarray(softness))
            assert_close(actual, case.expected(x, softness), allowed(case, x, "float64", softness))


@cases.each_pair(SOFT_MODES)
@pytest.mark.parametrize("standardize", [True, False])
def test_standardize(mode, method, standardize):
    """Standardised keys order the rows, the payload stays x; also on shifted, scaled and constant rows."""
    rows = cases.sample(cases.SQUARE, 3)
    x = np.stack([rows[0], 20 + 3 * rows[1], np.full(5, 2.5), rows[3] / 100, -7 * rows[4]])
    x = x if standardize or method != "ot" else np.abs(np.sin(x))
    with x64():
        for name in ("sort", "ranking", "argtop_k", "argmedian"):
            case = Case(name, mode, method, -1)
            actual = case(jnp.asarray(x), 0.2, standardize=standardize)
            expected = case.expected(x, 0.2, standardize=standardize)
            assert_close(actual, expected, allowed(case, x, "float64", 0.2))


@cases.each_pair()
def test_directions(mode, method):
    """`descending` of sort and argsort, and both directions of the ranking."""
    x = cases.sample(cases.SQUARE, 5)
    with x64():
        for name, options in [
            ("sort", {"descending": True}),
            ("argsort", {"descending": True}),
            ("ranking", {"descending": False}),
            ("rank", {"descending": False}),
        ]:
            case = Case(name, mode, method, -1)
            actual = case(jnp.asarray(x), 0.2, **options)
            assert_close(actual, case.expected(x, 0.2, **options), allowed(case, x, "float64", 0.2))


@cases.each_pair(("hard", "smooth", "c1"))
@pytest.mark.parametrize("rule", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantile_rules(mode, method, rule):
    """jnp's five interpolation rules, at ranks that are whole, below, at and above a half, and the ends."""
    x = cases.sample(cases.SQUARE, 6)
    how = {"softness": 0.2, "mode": mode, "method": method, "quantile_method": rule}
    quantiles = [0.0, 0.125, 0.25, 0.3, 0.6, 0.7, 1.0]
    case = Case("quantile", mode, method, -1)
    with x64():
        q = jnp.asarray(quantiles)
        value = sj.quantile(jnp.asarray(x), q, -1, **how)
        index = sj.argquantile(jnp.asarray(x), q, -1, **how)
        percent = sj.percentile(jnp.asarray(x), 100 * q, -1, **how)
        argpercent = sj.argpercentile(jnp.asarray(x), 100 * q, -1, **how)
    plan = np.array([[oracle.quantile_row(row, p, **how) for row in x] for p in quantiles])
    atol = allowed(case, x, "float64", 0.2)
    assert_close(index, plan, atol)
    assert_close(argpercent, plan, 100 * atol)
    assert_close(value, (plan * x).sum(-1), atol)
    assert_close(percent, (plan * x).sum(-1), 100 * atol)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("many", [9, 40])
def test_many_quantiles(method, many):
    """Each is what it is alone, between whole ranks too."""
    x, q = cases.sample((3, 20), 8, np.float32), np.random.default_rng(0).uniform(size=many).astype(np.float32)
    how = {"method": method, "axis": -1}
    both = jax.jit(lambda q: (sj.quantile(x, q, **how), sj.argquantile(x, q, **how)))
    values, rows = both(q)
    alone = [both(one) for one in q]
    np.testing.assert_allclose(values, np.stack([value for value, _ in alone]), rtol=0, atol=2e-5)
    np.testing.assert_allclose(rows, np.stack([row for _, row in alone]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_traced_quantile(method):
    """A traced q, scalar or 1-D, equals the concrete one; a 1-D q leads the result, keepdims included."""
    x = cases.sample((3, 5), 7, np.float32)
    how = {"method": method, "axis": 0, "keepdims": True}
    q = jnp.asarray([0.1, 0.5, 0.77])
    for function, tail in ((sj.quantile, (1, 5)), (sj.argquantile, (1, 5, 3))):
        run = jax.jit(lambda x, traced, f=function: (f(x, q, **how), f(x, traced, **how), f(x, 0.77, **how)))
        concrete, traced, scalar = run(x, q)
        assert concrete.shape == (3, *tail)
        atol = tolerance("float32", 3, cases.conditioning(x, 3, 0.1, method) * np.abs(x).max(), method)
        np.testing.assert_allclose(traced, concrete, rtol=0, atol=atol)
        np.testing.assert_allclose(scalar, concrete[2], rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["argmax", "argmin", "max", "min", "median", "argmedian", "quantile", "argquantile"])
@pytest.mark.parametrize("mode", ["hard", "smooth"])
def test_keepdims(name, mode):
    """keepdims puts axes of length one where JAX puts them; a distribution still comes last."""
    x = cases.sample(dtype=np.float32)
    operator = cases.ARRAY[name]
    lines = [Case(name, mode, "softsort", axis) for axis in operator.axes]
    found = jax.jit(lambda x: [(case(x), case(x, keepdims=True)) for case in lines])(x)
    for case, (flat, kept) in zip(lines, found, strict=True):
        axis = case.axis
        shape = np.max(x, axis=axis, keepdims=True).shape + ((case.length(x.shape),) if operator.index else ())
        assert kept.shape == shape
        np.testing.assert_array_equal(np.ravel(kept), np.ravel(flat))


@cases.elementwise_cases_by_dtype("float64", "float32")
def test_elementwise(name, mode, options, dtype):
    """Every elementwise operator x mode x variant, and each variant in float32 too."""
    args = cases.elementwise_inputs(name, np.dtype(dtype))
    with x64():
        for softness in (0.1, 0.37, 2.0):
            actual = cases.compiled_elementwise(name, mode, options)(args, softness)
            exact = [a.astype(np.float64) for a in args]
            expected = cases.ELEMENTWISE[name].oracle(*exact, softness, mode, **dict(options))
            size = max(np.abs(a).max() for a in args) * 10 ** dict(options).get("decimals", 0)
            atol = tolerance(dtype, 1, 1 + size / softness)
            assert actual.dtype == dtype
            np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("mode", SOFT_MODES)
def test_elementwise_softness_broadcasts(mode):
    """A softness for every row of the input."""
    x = np.linspace(-2, 2, 12).reshape(3, 4) + 0.01
    softness = np.array([[0.05], [0.3], [2.0]])
    with x64():
        for name in ("sigmoidal", "relu", "clip", "abs", "sign", "round", "greater", "equal", "isclose"):
            operator = cases.ELEMENTWISE[name]
            args = (x, x[:, ::-1].copy())[: operator.arity]
            actual = operator.call(name, [jnp.asarray(a) for a in args], jnp.asarray(softness), mode)
            rows = zip(*args, softness[:, 0], strict=True)
            expected = np.stack([operator.oracle(*row, mode) for row in rows])
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance("float64", 1, 100))


@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize(
    "bounds", [(None, 0.5), (-0.5, None), (0.2, 0.2), (0.7, -0.5), (-np.inf, 0.5), (0.5, np.inf), (-np.inf, np.inf)]
)
def test_clip_bounds(mode, bounds):
    """One-sided, empty, crossing and infinite intervals, by position and by JAX's names; array bounds broadcast."""
    x = np.linspace(-2, 2, 12)
    low, high = bounds
    expected = oracle.clip(x, low, high, 0.1, mode)
    if mode == "hard":
        expected = np.clip(x, low, high)
    with x64():
        atol = tolerance("float64", 1, 20)
        for actual in (
            sj.clip(jnp.asarray(x), low, high, mode=mode),
            sj.clip(jnp.asarray(x), min=low, max=high, mode=mode),
            sj.clip(
                jnp.asarray(x),
                *(None if b is None else jnp.full(12, b) for b in bounds),
                mode=mode,
            ),
        ):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("mode", cases.MODES)
def test_round_beyond_the_precision(mode):
    """So many decimals that no number has them change nothing, as in `jnp.round`; nor does a large scaled value."""
    x = jnp.asarray([0.3, -2.5, 0.0, 7e5, 1e-3])
    for decimals in (39, 400):
        np.testing.assert_array_equal(sj.round(x, decimals, mode=mode), x)
    if mode != "hard":
        np.testing.assert_allclose(sj.round(x, 37, mode=mode), x, rtol=1e-6)


@pytest.mark.parametrize("mode", SOFT_MODES)
def test_truncated_round(mode):
    """A window that covers the support changes nothing; a narrow one stays within a unit of x."""
    x = jnp.linspace(-3.3, 3.4, 50)
    exact = sj.round(x, softness=0.05, mode=mode)
    np.testing.assert_allclose(sj.round(x, softness=0.05, mode=mode, neighbor_radius=5), exact, atol=1e-5)
    narrow = sj.round(x, softness=0.05, mode=mode, neighbor_radius=1)
    assert np.abs(narrow - x).max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("geometric", [True, False])
def test_logic(geometric, dtype):
    """And, or, xor, not, all, any in both forms, on SoftBools that include 0 and 1."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 3, 4)).astype(dtype)
    x[0, :2], y[0, 1:3] = (0, 1), (1, 0)
    how = {"use_geometric_mean": geometric}
    xd, yd = x.astype(np.float64), y.astype(np.float64)
    # The geometric mean's square root magnifies the rounding of 1 - p around 0 to its root.
    atol = np.sqrt(np.finfo(dtype).eps) if geometric else tolerance(dtype)
    with x64():
        x, y = jnp.asarray(x), jnp.asarray(y)
        np.testing.assert_allclose(sj.logical_not(x), 1 - xd, rtol=0, atol=tolerance(dtype))
        for name in ("logical_and", "logical_or", "logical_xor"):
            actual = getattr(sj, name)(x, y, **how)
            assert actual.dtype == dtype
            np.testing.assert_allclose(actual, getattr(oracle, name)(xd, yd, geometric), rtol=0, atol=atol)
        for name, reference in (("all", oracle.soft_all), ("any", oracle.soft_any)):
            for axis in (-1, 0, None, (0, 1)):
                actual = getattr(sj, name)(x, axis, **how)
                kept = getattr(sj, name)(x, axis, keepdims=True, **how)
                flat = xd.reshape(1, -1) if axis in (None, (0, 1)) else np.moveaxis(xd, axis, -1)
                expected = reference(flat, geometric).reshape(actual.shape)
                np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)
                assert kept.shape == np.all(xd, axis=axis, keepdims=True).shape


def test_where():
    """condition * x + (1 - condition) * y, broadcasting as jnp.where does; a bool condition selects."""
    rng = np.random.default_rng(1)
    p, x, y = rng.uniform(size=(3, 2, 4)).astype(np.float32)
    expected = p.astype(np.float64) * x + (1 - p.astype(np.float64)) * y
    np.testing.assert_allclose(sj.where(p, x, y), expected, rtol=0, atol=tolerance("float32"))
    np.testing.assert_array_equal(sj.where(p > 0.5, x, y), np.where(p > 0.5, x, y))
    infinite = sj.where(jnp.asarray([True, False]), jnp.asarray([1.0, jnp.inf]), jnp.asarray([jnp.nan, 2.0]))
    np.testing.assert_array_equal(infinite, [1.0, 2.0])


@cases.each_pair(("smooth", "c1"))
def test_gates_change_no_value(mode, method):
    """gated_grad belongs to the derivative alone."""
    with x64():
        x = jnp.asarray(cases.sample(cases.SQUARE, 8))
        for name in cases.VALUE_NAMES:
            case = Case(name, mode, method, -1)
            ungated = jax.tree.leaves(case(x, gated_grad=False))
            for a, b in zip(ungated, jax.tree.leaves(case(x)), strict=True):
                np.testing.assert_array_equal(a, b)
