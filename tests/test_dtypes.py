"""dtype out == dtype in for floats, the default float for integers and bools, in every mode and method."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, MODES, SOFT_MODES, Case, x64

import softjax as sj

FLOATS = ["float64", "float32", "bfloat16", "float16"]
WHOLE = ["int32", "int8", "uint8", "bool"]


def dtypes_of(function, *shapes):
    """The dtypes of the results, without compiling anything."""
    return {leaf.dtype.name for leaf in jax.tree.leaves(jax.eval_shape(function, *shapes))}


def in_turn(case):
    """A dtype for each line of the table: over its modes and methods an operator meets all of them."""
    method = [*METHODS, *cases.VALUE_METHODS].index(case.method)
    place = list(cases.ARRAY).index(case.name) + method * len(MODES) + MODES.index(case.mode)
    return [(FLOATS + WHOLE)[place % len(FLOATS + WHOLE)]]


@pytest.mark.parametrize("dtypes", [in_turn, pytest.param(lambda _: FLOATS + WHOLE, id="all", marks=pytest.mark.slow)])
@cases.array_cases(axes=(-1,))
def test_array_operators(case, dtypes):
    """Abstractly, for every line of the table along the last axis."""
    for dtype in dtypes(case):
        with x64(dtype in ("float64", "bfloat16")):
            found = dtypes_of(case, jax.ShapeDtypeStruct((2, 5), dtype))
            assert found == {dtype if dtype in FLOATS else "float32"}, dtype


@cases.elementwise_cases()
def test_elementwise(name, mode, options):
    """The same for the elementwise operators and comparisons."""
    operator = cases.ELEMENTWISE[name]

    def call(*args):
        return operator.call(name, args, 0.1, mode, **dict(options))

    with x64():
        for dtype in FLOATS:
            assert dtypes_of(call, *[jax.ShapeDtypeStruct((2, 5), dtype)] * operator.arity) == {dtype}
    for dtype in WHOLE:
        assert dtypes_of(call, *[jax.ShapeDtypeStruct((2, 5), dtype)] * operator.arity) == {"float32"}


@pytest.mark.parametrize("dtype", FLOATS)
def test_logic_and_selection(dtype):
    """SoftBool logic and selection keep the dtype."""
    with x64():
        p = jax.ShapeDtypeStruct((3, 4), dtype)
        index = jax.ShapeDtypeStruct((3, 2, 4), dtype)
        for name in ("logical_and", "logical_or", "logical_xor"):
            assert dtypes_of(getattr(sj, name), p, p) == {dtype}
        assert dtypes_of(sj.logical_not, p) == {dtype}
        assert dtypes_of(lambda p: (sj.all(p), sj.any(p, -1)), p) == {dtype}
        assert dtypes_of(sj.where, p, p, p) == {dtype}
        assert dtypes_of(sj.take_along_axis, p, index) == {dtype}
        assert dtypes_of(lambda p, i: sj.take(p, i, axis=1), p, index) == {dtype}


def test_bools_are_softbools():
    """True and False count as 1 and 0."""
    p, q = jnp.asarray([True, True, False]), jnp.asarray([True, False, False])
    for name in ("logical_and", "logical_or", "logical_xor"):
        out = getattr(sj, name)(p, q)
        assert out.dtype == jnp.float32
        expected = getattr(np, name)(np.asarray(p), np.asarray(q))
        # The floor of the geometric mean, 1e-10, leaves sqrt(1e-10) in place of zero.
        np.testing.assert_allclose(out, expected, atol=3e-3)
        np.testing.assert_array_equal(getattr(sj, name)(p, q, use_geometric_mean=False), expected.astype(np.float32))


HALVED = ("sort", "argtop_k", "ranking")


@pytest.mark.parametrize(
    ("dtype", "mode", "method", "name"),
    [
        pytest.param(
            ("bfloat16", "float16")[(i + j) % 2], mode, method, name, marks=cases.slow_unless((i + j) % 3 == k)
        )
        for i, mode in enumerate(MODES)
        for j, method in enumerate(METHODS)
        for k, name in enumerate(HALVED)
        if (mode, method) in cases.pairs()
    ],
)
def test_half_precision_computes_in_float32(dtype, mode, method, name):
    """16-bit in gives the definition's value with float32's error, rounded once at the end."""
    x = jnp.asarray(cases.sample((2, 6), 50, np.float32), dtype)
    exact = np.asarray(x, np.float64)
    atol = cases.tolerance("float32", 6, 6 * cases.conditioning(exact, 6, 0.1, method), method)
    case = Case(name, mode, method, -1)
    actual = cases.compiled(case)(x, 0.1)
    assert actual.dtype == dtype
    rounding = float(jnp.finfo(dtype).eps) / 2
    np.testing.assert_allclose(np.asarray(actual, np.float64), case.expected(exact), rtol=rounding, atol=atol)


@pytest.mark.parametrize("mode", SOFT_MODES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_elementwise(mode, dtype):
    """The same for the elementwise operators."""
    x = jnp.asarray(np.linspace(-2, 2, 33), dtype)
    for name, operator in cases.ELEMENTWISE.items():
        args = (x, x[::-1])[: operator.arity]
        actual = operator.call(name, args, 0.1, mode)
        wide = operator.call(name, [a.astype(jnp.float32) for a in args], 0.1, mode)
        assert actual.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(actual, np.float32), wide, rtol=float(jnp.finfo(dtype).eps), atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("mode", MODES)
def test_integers_equal_their_floats(mode):
    """An integer input gives what the same numbers as floats give, in hard mode too."""
    whole = jnp.asarray([[3, -1, 2, 2], [0, 5, -7, 1]])
    real = whole.astype(jnp.float32)
    for name in ("sort", "argsort", "ranking", "max", "median", "argmin"):
        case = Case(name, mode, "softsort", -1)
        np.testing.assert_array_equal(case(whole), case(real))
    for name, operator in cases.ELEMENTWISE.items():
        args = (whole, whole[::-1])[: operator.arity]
        floats = (real, real[::-1])[: operator.arity]
        np.testing.assert_array_equal(operator.call(name, args, 0.1, mode), operator.call(name, floats, 0.1, mode))


@pytest.mark.parametrize("mode", MODES)
def test_numpy_and_python_inputs(mode):
    """NumPy arrays work as JAX arrays do, Python numbers where JAX's function takes them."""
    x = cases.sample((2, 4), 51, np.float32)
    np.testing.assert_array_equal(sj.sort(x, mode=mode), sj.sort(jnp.asarray(x), mode=mode))
    np.testing.assert_array_equal(sj.relu(x, mode=mode), sj.relu(jnp.asarray(x), mode=mode))
    for value in (sj.relu(0.25, mode=mode), sj.greater(0.25, 0.5, mode=mode), sj.abs(-1, mode=mode)):
        assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_array_equal(sj.greater(x, 0.0, mode=mode), sj.greater(x, jnp.zeros_like(x), mode=mode))


def test_softness_dtypes():
    """softness as Python number, NumPy scalar, integer, and array of another precision: the input's dtype stays."""
    x = jnp.asarray(cases.sample((2, 4), 52, np.float32))
    for softness in (
        1,
        1.0,
        np.float64(1),
        np.float32(1),
        np.int32(1),
        jnp.asarray(1.0),
        jnp.asarray(1.0, jnp.bfloat16),
    ):
        for out in (sj.sort(x, softness=softness), sj.relu(x, softness=softness), sj.greater(x, x, softness=softness)):
            assert out.dtype == jnp.float32
        np.testing.assert_allclose(sj.sort(x, softness=softness), sj.sort(x, softness=1.0), rtol=1e-6)
