"""Bad input: a message names the argument, its value and what is legal; alike in every mode and under jit."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import softjax as sj

X = jnp.asarray([[3.0, -1.0, 2.0], [0.5, 4.0, 1.0]])
# Made here, since an array made under jit is traced.
NOT_POSITIVE, THREE, FOUR, MATRIX = jnp.asarray([0.1, -0.5]), jnp.ones(3), jnp.ones(4), jnp.full((1, 1), 0.5)
COMPLEX, KEY = jnp.asarray(0.1 + 0j), jax.random.key(0)
ARRAY = tuple(cases.ARRAY)
ALONG = ("argsort", "sort", "ranking", "rank", "argtop_k", "top_k", "bottom_k", "top_k_mask", "bottom_k_mask")
WITH_K = ("argtop_k", "top_k", "bottom_k")
WITH_Q = ("quantile", "argquantile", "percentile", "argpercentile")
GATED = ("sort", "max", "min", "top_k", "bottom_k", "median", "quantile", "percentile")
KEEPDIMS = tuple(name for name in ARRAY if name not in ALONG)
BOTH = pytest.mark.parametrize("mode", ["hard", "smooth"])
WRONG = (ValueError, TypeError)


def call(name, x=X, *, positional=None, **options):
    """The operator with the table's positional arguments, or others."""
    positional = cases.ARRAY[name].positional if positional is None else positional
    return getattr(sj, name)(x, *positional, **options)


def elementwise(name, x=X, **options):
    """The elementwise operator on legal values."""
    operator = cases.ELEMENTWISE[name]
    return getattr(sj, name)(*(x, X + 1)[: operator.arity], *operator.positional, **options)


def raises_alike(function, *parts, kinds=WRONG):
    """The call raises, its message holds every part, and is the same eagerly and under jit."""
    with pytest.raises(kinds) as eager:
        function(X)
    for part in parts:
        assert part in str(eager.value), str(eager.value)
    with pytest.raises(kinds) as traced:
        jax.jit(function)(X)
    assert type(traced.value) is type(eager.value)
    for part in parts:
        assert part in str(traced.value), str(traced.value)
    return str(eager.value)


# --- mode, method, implementation, flags ---------------------------------------------------------------


@pytest.mark.parametrize("name", ARRAY)
def test_unknown_mode(name):
    """All legal modes are listed."""
    for mode in ("soft", "Hard", None, 3):
        raises_alike(
            lambda x, m=mode: call(name, x, mode=m), "`mode`", repr(mode), "'hard', 'smooth', 'c0', 'c1', 'c2'"
        )


@pytest.mark.parametrize("name", cases.ELEMENTWISE)
def test_unknown_mode_elementwise(name):
    """The same for the elementwise operators."""
    for mode in ("soft", None):
        raises_alike(
            lambda x, m=mode: elementwise(name, mode=m), "`mode`", repr(mode), "'hard', 'smooth', 'c0', 'c1', 'c2'"
        )


@BOTH
@pytest.mark.parametrize("name", ARRAY)
def test_unknown_method_and_implementation(name, mode):
    """Both lists of legal names; the hard mode, which needs neither, checks them too."""
    legal = "'softsort', 'neuralsort', 'ot'"
    raises_alike(lambda x: call(name, x, mode=mode, method="bubble"), "`method`", "'bubble'", legal)
    raises_alike(lambda x: call(name, x, mode=mode, implementation="magic"), "`implementation`", "'magic'", "None")


@BOTH
@pytest.mark.parametrize("name", ARRAY)
def test_flags(name, mode):
    """standardize, keepdims, descending, gated_grad are True or False."""
    flags = ["standardize"]
    flags += ["gated_grad"] if name in GATED else []
    flags += ["keepdims"] if name in KEEPDIMS else []
    flags += ["descending"] if name in ("sort", "argsort", "rank", "ranking") else []
    flags += ["stable"] if name in ("sort", "argsort") else []
    flags += ["is_stable"] if name in WITH_K else []
    for flag in flags:
        raises_alike(lambda x, f=flag: call(name, x, mode=mode, **{f: "yes"}), f"`{flag}`", "'yes'", "True", "False")


@BOTH
def test_elementwise_flags(mode):
    """The elementwise operators' flags."""
    for name, flag in [
        ("relu", "gated"),
        ("softrelu", "gated"),
        ("clip", "gated"),
        ("equal", "normalize"),
        ("isclose", "normalize"),
    ]:
        raises_alike(lambda x, n=name, f=flag: elementwise(n, mode=mode, **{f: "yes"}), f"`{flag}`", "'yes'")


# --- softness ------------------------------------------------------------------------------------------


def softness_is_checked(function, mode, shape):
    """Not positive, not a real number, of a shape that does not broadcast against `shape`; 0 and None: soft alone."""
    for softness in (-1.0, -1, float("nan"), float("-inf")):
        raises_alike(lambda x, s=softness: function(x, s), "`softness`", repr(softness), "positive", kinds=ValueError)
    raises_alike(lambda x: function(x, NOT_POSITIVE), "`softness`", "positive", kinds=ValueError)
    for softness in (True, 0.1 + 0j):
        raises_alike(lambda x, s=softness: function(x, s), "`softness`", repr(softness), "number", kinds=TypeError)
    raises_alike(lambda x: function(x, "high"), "`softness`", "'high'", "number", kinds=TypeError)
    for softness in (COMPLEX, KEY, COMPLEX.__array__(), ["high"]):
        raises_alike(lambda x, s=softness: function(x, s), "`softness`", "dtype", "number", kinds=TypeError)
    for softness in (COMPLEX, KEY):
        with pytest.raises(TypeError, match="`softness`"):
            jax.jit(function)(X, softness)
    raises_alike(lambda x: function(x, FOUR), "softness", "(4,)", str(shape))
    for softness in (0, 0.0, None):
        if mode == "hard":
            np.testing.assert_array_equal(jax.tree.leaves(function(X, softness)), jax.tree.leaves(function(X, 0.1)))
        else:
            raises_alike(lambda x, s=softness: function(x, s), "`softness`", repr(softness), "positive")


@BOTH
@pytest.mark.parametrize("name", ARRAY)
def test_softness(name, mode):
    """Array operators, against the batch."""
    softness_is_checked(lambda x, s: jax.tree.leaves(call(name, x, axis=-1, mode=mode, softness=s))[0], mode, (2,))


@BOTH
@pytest.mark.parametrize("name", cases.ELEMENTWISE)
def test_softness_elementwise(name, mode):
    """The same against the input's own shape."""
    softness_is_checked(lambda x, s: elementwise(name, x, mode=mode, softness=s), mode, (2, 3))


# --- axes and sizes ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ARRAY)
def test_axis(name, mode):
    """Out of range, not an integer, of a scalar, over no elements."""
    for axis in (2, -3):
        raises_alike(
            lambda x, a=axis: call(name, x, axis=a, mode=mode), "`axis`", str(axis), "[-2, 2)", kinds=ValueError
        )
    raises_alike(lambda x: call(name, x, axis=0.5, mode=mode), "`axis`", "0.5", "integer", kinds=TypeError)
    raises_alike(lambda x: call(name, x[:, :0], axis=-1, mode=mode), "shape", "(2, 0)")
    with pytest.raises(WRONG, match="axis|1-D|k"):
        call(name, jnp.asarray(1.0), axis=-1, mode=mode)


@BOTH
def test_axes(mode):
    """Several axes: only where JAX takes them, and without duplicates."""
    for name in ("max", "min", "median", "quantile", "percentile"):
        raises_alike(
            lambda x, n=name: call(n, x, axis=(0, -2), mode=mode), "`axis`", "(0, -2)", "duplicate", kinds=ValueError
        )
        raises_alike(lambda x, n=name: call(n, x, axis=(0, 5), mode=mode), "`axis`", "5")
    for name in ALONG:
        raises_alike(lambda x, n=name: call(n, x, axis=(0, 1), mode=mode), "`axis`", "(0, 1)")


@BOTH
@pytest.mark.parametrize("name", WITH_K)
def test_k(name, mode):
    """Out of range, not an integer, traced."""
    for k in (-1, 4):
        raises_alike(lambda x, k=k: call(name, x, positional=(k,), mode=mode), "`k`", str(k), "3", kinds=ValueError)
    for k in (1.5, "two", None, True):
        raises_alike(
            lambda x, k=k: call(name, x, positional=(k,), mode=mode), "`k`", repr(k), "integer", kinds=TypeError
        )
    with pytest.raises(TypeError, match="`k`.*static.*top_k_mask"):
        jax.jit(lambda x, k: call(name, x, positional=(k,), mode=mode))(X, 2)


@BOTH
@pytest.mark.parametrize("name", WITH_Q)
def test_q(name, mode):
    """Out of range, too many axes, unknown rule."""
    top = 100 if "percent" in name else 1
    for q in (-0.1, 1.5 * top, float("nan")):
        raises_alike(
            lambda x, q=q: call(name, x, positional=(q,), mode=mode), "`q`", repr(q), f"[0, {top}]", kinds=ValueError
        )
    raises_alike(lambda x: call(name, x, positional=(MATRIX,), mode=mode), "q", "(1, 1)", kinds=ValueError)
    raises_alike(lambda x: call(name, x, positional=("half",), mode=mode), "`q`", "'half'", kinds=TypeError)
    rules = "'linear', 'lower', 'higher', 'midpoint', 'nearest'"
    raises_alike(lambda x: call(name, x, mode=mode, quantile_method="cubic"), "`quantile_method`", "'cubic'", rules)
    raises_alike(lambda x: call(name, x, mode=mode, method="linear"), "`method`", "'linear'", "`quantile_method`")


# --- inputs --------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", (*ARRAY, *cases.ELEMENTWISE))
def test_inputs_that_are_not_real_arrays(name, mode):
    """Complex numbers, strings, None."""
    first = next(iter(__import__("inspect").signature(getattr(sj, name)).parameters))
    arguments = cases.ARRAY[name].positional if name in cases.ARRAY else (X,) * (cases.ELEMENTWISE[name].arity - 1)
    for value in (X.astype(jnp.complex64), KEY, "text", ["text"], None, object()):
        with pytest.raises(TypeError) as error:
            getattr(sj, name)(value, *arguments, mode=mode)
        assert f"`{first}`" in str(error.value) and "real" in str(error.value)


@BOTH
def test_shapes_that_do_not_broadcast(mode):
    """Both shapes are named."""
    for name in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "isclose"):
        raises_alike(
            lambda x, n=name: getattr(sj, n)(x, FOUR, mode=mode), "(2, 3)", "(4,)", "broadcast", kinds=ValueError
        )
    raises_alike(lambda x: sj.clip(x, FOUR, 1.0, mode=mode), "min", "(2, 3)", "(4,)", kinds=ValueError)
    raises_alike(lambda x: sj.clip(x, 0.0, FOUR, mode=mode), "max", "(2, 3)", "(4,)", kinds=ValueError)


def test_logic():
    """Shapes, axes and flags of the SoftBool logic."""
    for name in ("logical_and", "logical_or", "logical_xor"):
        function = getattr(sj, name)
        raises_alike(lambda x, f=function: f(x, FOUR), "(2, 3)", "(4,)", "broadcast", kinds=ValueError)
        raises_alike(lambda x, f=function: f(x, x, use_geometric_mean="yes"), "`use_geometric_mean`", "'yes'")
        raises_alike(lambda x, f=function: f("text", x), "`x`", "'text'", kinds=TypeError)
    for function in (sj.all, sj.any):
        raises_alike(lambda x, f=function: f(x, 2), "`axis`", "2", "[-2, 2)", kinds=ValueError)
        raises_alike(lambda x, f=function: f(x, keepdims="yes"), "`keepdims`", "'yes'")
    raises_alike(lambda x: sj.where(x, x, FOUR), "(2, 3)", "(4,)", "broadcast", kinds=ValueError)


@BOTH
def test_round(mode):
    """decimals and neighbor_radius are integers, the latter not negative."""
    raises_alike(lambda x: sj.round(x, 0.5, mode=mode), "`decimals`", "0.5", "integer", kinds=TypeError)
    raises_alike(lambda x: sj.round(x, -39, mode=mode), "`decimals`", "-39", "at least -37 for float32")
    raises_alike(
        lambda x: sj.round(x, mode=mode, neighbor_radius=0.5), "`neighbor_radius`", "0.5", "integer", kinds=TypeError
    )
    raises_alike(lambda x: sj.round(x, mode=mode, neighbor_radius=-1), "`neighbor_radius`", "-1", kinds=ValueError)


@pytest.mark.parametrize("arguments", [{"axes": 0}, {"softnes": 0.1}])
def test_unknown_keyword(arguments):
    """Python's own message; nothing is swallowed by **kwargs."""
    for function in (sj.sort, sj.relu, sj.sort_st, sj.all):
        with pytest.raises(TypeError, match="unexpected keyword"):
            function(X, **arguments)


def test_softening_is_keyword_only():
    """`sj.round(x, 2)` means two decimals, and no softness slips in by position."""
    for function in (sj.relu, sj.abs, sj.sigmoidal, sj.sign):
        with pytest.raises(TypeError, match="positional"):
            function(X, 0.1)
    with pytest.raises(TypeError, match="positional"):
        sj.sort(X, -1, 0.1)


def test_infinities_where_keys_are_standardised():
    """The message says what to do, and that works."""
    x = jnp.asarray([0.3, jnp.inf, 0.1, -jnp.inf])
    for name in ("sort", "max", "top_k", "median", "top_k_mask"):
        with pytest.raises(ValueError, match="standardize=False"):
            call(name, x, method="ot")
    np.testing.assert_allclose(
        sj.sort(x, method="ot", standardize=False, softness=1e-3), [-jnp.inf, 0.1, 0.3, jnp.inf], rtol=1e-5
    )


# --- selection -----------------------------------------------------------------------------------------


def test_selection():
    """The distribution's length, the number of axes, sizes of slices, axes."""
    index = jnp.full((2, 1, 3), 1 / 3)
    raises_alike(lambda x: sj.take_along_axis(x, index[..., :2], 1), "`indices.shape[-1]`", "2", "3", kinds=ValueError)
    raises_alike(lambda x: sj.take_along_axis(x, index[0], 1), "indices", "2", "3", kinds=ValueError)
    raises_alike(lambda x: sj.take_along_axis(x, jnp.full((5, 1, 3), 1 / 3), 1), "indices", "(5, 1, 3)", "(2, 3)")
    raises_alike(lambda x: sj.take_along_axis(x, index, 2), "`axis`", "2", "[-2, 2)", kinds=ValueError)
    raises_alike(lambda x: sj.take(x, index, 0), "indices", "3", "2", kinds=ValueError)
    raises_alike(lambda x: sj.take(x, index, -3), "`axis`", "-3", "[-2, 2)", kinds=ValueError)
    raises_alike(lambda x: sj.choose(index, x), "a.shape", "3", "2", kinds=ValueError)
    position = jnp.full(3, 1 / 3)
    # The remedy: the axis of size 1 with which the indices fit, or the function for a bank shared by all rows.
    for shape, given, axis, remedy in [
        ((2, 4, 3), (2, 5, 4), 1, "`indices[:, :, None]`"),
        ((4, 3), (5, 4), 0, "`indices[:, None]`"),
        ((2, 4), (2, 4), -1, "`indices[:, None]`"),
        ((2, 4), (4,), -1, "`take`"),
        ((2, 4, 3), (7, 4), 1, "`take`"),
    ]:
        with pytest.raises(ValueError, match="indices.ndim") as error:
            sj.take_along_axis(jnp.ones(shape), jnp.ones(given), axis)
        assert remedy in str(error.value)
        if "None" in remedy:
            sj.take_along_axis(jnp.ones(shape), eval(remedy.strip("`"), {"indices": jnp.ones(given)}), axis)
    p = sj.soft_permutation(jnp.ones((2, 6)))
    with pytest.raises(ValueError, match="indices @ arr"):
        sj.take_along_axis(jnp.ones((2, 6, 3)), p, axis=1)
    with pytest.raises(TypeError, match="static integers.*top_k_mask"):
        jax.jit(lambda k: p[:k].todense())(2)
    raises_alike(lambda x: sj.dynamic_index_in_dim(x, position, 0), "3", "2", kinds=ValueError)
    raises_alike(lambda x: sj.dynamic_index_in_dim(x, position, 2), "`axis`", "2", "[-2, 2)", kinds=ValueError)
    raises_alike(lambda x: sj.dynamic_slice_in_dim(x, position, 4, 1), "`slice_size`", "4", "[0, 3]", kinds=ValueError)
    raises_alike(
        lambda x: sj.dynamic_slice_in_dim(x, position, 1.5, 1), "`slice_size`", "1.5", "integer", kinds=TypeError
    )
    raises_alike(lambda x: sj.dynamic_slice(x, [position], [1]), "start_indices", "1", "2", kinds=ValueError)
    raises_alike(lambda x: sj.dynamic_slice(x, [position[:2], position], [1, 4]), "slice_sizes[1]", "4", "[0, 3]")


NO_INDEX = [
    "text",
    "bool",
    "int32",
    b"x",
    None,
    ["a"],
    [0, 1],
    [0.5, 0.5],
    {},
    object(),
    jnp.ones(3, jnp.complex64),
    jax.random.key(0),
]


@pytest.mark.parametrize("value", NO_INDEX, ids=lambda value: repr(value)[:12])
def test_indices_and_conditions_that_are_no_arrays(value):
    """Strings (names of dtypes, too), lists, None, complex numbers, keys of random numbers."""
    x = X[0]
    for call, name in [
        (lambda: sj.where(value, x, x), "`condition`"),
        (lambda: sj.take(x, value), "`indices`"),
        (lambda: sj.take_along_axis(x, value), "`indices`"),
        (lambda: sj.choose(value, [x, x]), "`a`"),
        (lambda: sj.dynamic_index_in_dim(x, value), "`index`"),
        (lambda: sj.dynamic_slice_in_dim(x, value, 1), "`start_index`"),
        (lambda: sj.dynamic_slice(x, [value], [1]), "`start_indices[0]`"),
    ]:
        with pytest.raises(TypeError) as error:
            call()
        assert name in str(error.value), str(error.value)
    for starts in ("a", None, 0, 0.5):
        with pytest.raises(TypeError, match="`start_indices`"):
            sj.dynamic_slice(x, starts, [1])
    assert sj.where(1.5, 2.0, 1.0) == 2.5  # out of range, and legal


# --- straight-through ----------------------------------------------------------------------------------


def test_straight_through():
    """The derived operators check as their operators do, also what only the soft one needs."""
    for name in sorted({*ARRAY, *cases.ELEMENTWISE}):
        function = getattr(sj, f"{name}_st")
        if name in cases.ARRAY:
            arguments = cases.ARRAY[name].positional
        else:
            arguments = (X,) * (cases.ELEMENTWISE[name].arity - 1) + cases.ELEMENTWISE[name].positional
        for softness in (0.0, None, KEY):
            raises_alike(lambda x, f=function, a=arguments, s=softness: f(x, *a, softness=s), "`softness`", "positive")
        raises_alike(
            lambda x, f=function, a=arguments: f(x, *a, mode="soft"), "`mode`", "'soft'", "'smooth'", kinds=ValueError
        )


def test_straight_through_of_unsuitable_functions():
    """st needs a `mode`, grad_replace a `forward`; both need a function."""
    with pytest.raises(WRONG, match="mode"):
        sj.st(lambda x: x)
    with pytest.raises(WRONG, match="forward"):
        sj.grad_replace(lambda x: x)
    for wrap in (sj.st, sj.grad_replace):
        with pytest.raises(WRONG, match="fn"):
            wrap(3)


def test_explain():
    """Only for operators that have a choice of implementation."""
    assert "xla" in str(sj.explain(sj.top_k, X, 2, method="ot"))
    assert "dense" in str(sj.explain(sj.top_k, X, 2, method="ot", implementation="dense"))
    with pytest.raises(TypeError, match="implementation"):
        sj.explain(sj.relu, X)
    with pytest.raises(ValueError, match="magic"):
        sj.explain(sj.sort, X, implementation="magic")
