"""Hard mode is JAX's function bit for bit, and a call with JAX's own positional arguments means the same."""

import inspect

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import softjax as sj

DTYPES = ["float32", "bfloat16", "float16"]
AXES = [-1, 0, None]


def data(dtype):
    """Ties, both zeros, large and tiny values, negative and positive; exact in every dtype."""
    values = [[0.0, -0.0, 2.5, 2.5, -3.5], [1024, -0.125, 7, 7, 7], [0.5, 1.5, -2.5, 0.25, -0.0]]
    return jnp.asarray(values, dtype)


def same_bits(actual, expected):
    """Equal shape, dtype and bytes: -0.0 is not 0.0."""
    expected = jnp.asarray(expected)
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert np.asarray(actual).tobytes() == np.asarray(expected).tobytes()


def one_hot(index, n, dtype):
    """Distributions that are certain."""
    return jax.nn.one_hot(index, n, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases.ELEMENTWISE)
def test_elementwise(name, dtype):
    """The comparisons' bools become the input's floats."""
    operator = cases.ELEMENTWISE[name]
    x = data(dtype)
    args = (x, x[::-1])[: operator.arity]
    same_bits(operator.call(name, args, 0.1, "hard"), operator.hard(*args).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise_arguments(dtype):
    """Decimals, the second argument of heaviside, one-sided clips, tolerances, equal_nan."""
    x = data(dtype)
    for decimals in (0, 1, -1):
        same_bits(sj.round(x, decimals, mode="hard"), jnp.round(x, decimals))
    same_bits(sj.heaviside(x, 0.25, mode="hard"), jnp.heaviside(x, jnp.asarray(0.25, dtype)))
    same_bits(sj.clip(x, None, 1.0, mode="hard"), jnp.clip(x, None, 1.0))
    same_bits(sj.clip(x, max=1.0, mode="hard"), jnp.clip(x, max=1.0))
    same_bits(sj.clip(x, -1.0, mode="hard"), jnp.clip(x, -1.0))
    near = x + jnp.asarray(0.125, dtype)
    same_bits(sj.isclose(x, near, 0.1, 0.05, mode="hard"), jnp.isclose(x, near, 0.1, 0.05).astype(dtype))
    gap = jnp.asarray([jnp.nan, 1.0], dtype)
    same_bits(sj.isclose(gap, gap, equal_nan=True, mode="hard"), jnp.asarray([1.0, 1.0], dtype))
    same_bits(sj.isclose(gap, gap, mode="hard"), jnp.asarray([0.0, 1.0], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("method", cases.METHODS)
def test_values(axis, dtype, method):
    """Order statistics, whatever the method."""
    x, how = data(dtype), {"mode": "hard", "method": method}
    wide = jnp.float32  # a rank is no number of the 16-bit floats
    for descending in (False, True):
        same_bits(sj.sort(x, axis, descending=descending, **how), jnp.sort(x, axis, descending=descending))
    for name in ("max", "min", "median"):
        for keepdims in (False, True):
            expected = getattr(jnp, name)(x, axis, keepdims=keepdims)
            same_bits(getattr(sj, name)(x, axis, keepdims=keepdims, **how), expected)
    for rule in ("linear", "lower", "higher", "midpoint", "nearest"):
        for q in (0.3, 0.5, 1.0):
            q = jnp.asarray(q, dtype)
            expected = jnp.quantile(x, q.astype(wide), axis, method=rule)
            same_bits(sj.quantile(x, q, axis, quantile_method=rule, **how), expected)
        percent = jnp.asarray([25.0, 60.0], dtype)
        expected = jnp.percentile(x, percent.astype(wide), axis, method=rule)
        same_bits(sj.percentile(x, percent, axis, quantile_method=rule, **how), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", AXES)
def test_indices(axis, dtype):
    """One-hot at JAX's index, ties included, in the input's dtype."""
    x, how = data(dtype), {"mode": "hard"}
    n = x.size if axis is None else x.shape[axis]
    for descending in (False, True):
        expected = one_hot(jnp.argsort(x, axis, descending=descending), n, dtype)
        same_bits(sj.argsort(x, axis, descending=descending, **how), expected)
    for name in ("argmax", "argmin"):
        for keepdims in (False, True):
            expected = one_hot(getattr(jnp, name)(x, axis, keepdims=keepdims), n, dtype)
            same_bits(getattr(sj, name)(x, axis, keepdims=keepdims, **how), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k(k, dtype):
    """Values and indices of lax.top_k, along another axis too."""
    x = data(dtype)
    values, indices = jax.lax.top_k(x, k)
    same_bits(sj.top_k(x, k, mode="hard")[0], values)
    same_bits(sj.top_k(x, k, mode="hard")[1], one_hot(indices, 5, dtype))
    same_bits(sj.argtop_k(x, k, mode="hard"), one_hot(indices, 5, dtype))
    if hasattr(jnp, "top_k"):  # since JAX 0.11
        values, indices = jnp.top_k(x, k, mode="smallest")
    else:
        plain = np.asarray(x, np.float32)
        indices = jnp.asarray(np.lexsort((~np.signbit(plain), plain))[..., :k])  # -0 is below 0
        values = jnp.take_along_axis(x, indices, -1)
    same_bits(sj.bottom_k(x, k, mode="hard")[0], values)
    same_bits(sj.bottom_k(x, k, mode="hard")[1], one_hot(indices, 5, dtype))
    values, indices = jax.lax.top_k(x, k, axis=0)
    same_bits(sj.top_k(x, k, axis=0, mode="hard")[0], values)
    same_bits(sj.top_k(x, k, axis=0, mode="hard")[1], one_hot(indices, 3, dtype))


@pytest.mark.parametrize("mode", ["hard", "smooth"])
@pytest.mark.parametrize("name", ["argtop_k", "top_k", "bottom_k", "top_k_mask", "bottom_k_mask"])
def test_top_k_of_all_elements(name, mode):
    """axis=None flattens, as in the other operators; `_st` forms too."""
    x = data("float32")
    for suffix in ("", "_st"):
        function = getattr(sj, name + suffix)
        have, want = (
            jax.tree.leaves(f) for f in (function(x, 2, axis=None, mode=mode), function(x.ravel(), 2, mode=mode))
        )
        for a, b in zip(have, want, strict=True):
            same_bits(a, b)


def test_stability():
    """JAX's keywords for it are taken, and reach JAX's own function where there is one."""
    x = data("float32")
    for stable in (True, False):
        same_bits(sj.sort(x, stable=stable, mode="hard"), jnp.sort(x, stable=stable))
        same_bits(sj.argsort(x, stable=stable, mode="hard"), one_hot(jnp.argsort(x, stable=stable), 5, x.dtype))
        same_bits(sj.sort_st(x, stable=stable), jnp.sort(x, stable=stable))
        same_bits(sj.sort(x, stable=stable), sj.sort(x))
        same_bits(sj.top_k(x, 2, is_stable=stable, mode="hard")[0], jax.lax.top_k(x, 2)[0])
        same_bits(sj.argtop_k(x, 2, is_stable=stable), sj.argtop_k(x, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_blended_indices(dtype):
    """argmedian and argquantile put jnp.quantile's weights on one-hots; applied to x they give the quantile."""
    x = jnp.asarray([[4.0, -1.0, 2.0, 8.0], [0.5, 0.25, -2.0, 1.0]], dtype)
    same_bits(sj.argmedian(x, -1, mode="hard"), jnp.asarray([[0.5, 0, 0.5, 0], [0.5, 0.5, 0, 0]], dtype))
    weights = sj.argquantile(x, jnp.asarray(0.25, dtype), -1, mode="hard")
    same_bits(weights, jnp.asarray([[0, 0.25, 0.75, 0], [0, 0.75, 0.25, 0]], dtype))
    same_bits(sj.argpercentile(x, jnp.asarray(25.0, dtype), -1, mode="hard"), weights)


def test_ranking():
    """argsort of argsort without ties, the average rank with them."""
    x = jnp.asarray(cases.sample((3, 7), 40, np.float32))
    ascending = jnp.argsort(jnp.argsort(x)).astype(x.dtype)
    same_bits(sj.ranking(x, descending=False, mode="hard"), ascending)
    same_bits(sj.ranking(x, mode="hard"), 6 - ascending)
    same_bits(sj.rank(x, mode="hard"), 7 - ascending)
    tied = jnp.asarray([2.0, 1.0, 2.0, 2.0, 0.0])
    same_bits(sj.ranking(tied, descending=False, mode="hard"), jnp.asarray([3.0, 1.0, 3.0, 3.0, 0.0]))
    same_bits(sj.rank(tied, mode="hard"), jnp.asarray([2.0, 4.0, 2.0, 2.0, 5.0]))


def test_nan_and_infinity_as_in_jax():
    """Hard values with NaN and infinities are JAX's."""
    x = jnp.asarray([[1.0, jnp.nan, -2.0, 0.5], [jnp.inf, -jnp.inf, 0.0, 1.0]])
    for name in ("sort", "max", "min", "median"):
        same_bits(getattr(sj, name)(x, -1, mode="hard"), getattr(jnp, name)(x, -1))
    same_bits(sj.argmax(x, -1, mode="hard"), one_hot(jnp.argmax(x, -1), 4, x.dtype))
    for name in ("sign", "abs", "round"):
        same_bits(getattr(sj, name)(x, mode="hard"), getattr(jnp, name)(x))
    same_bits(sj.relu(x, mode="hard"), jax.nn.relu(x))


COUNTERPARTS = {
    **{
        name: getattr(jnp, name)
        for name in (
            "abs clip sign round heaviside greater greater_equal less less_equal equal not_equal isclose logical_and "
            "logical_or logical_xor logical_not all any where argsort sort argmax argmin max min quantile percentile "
            "median take_along_axis take choose"
        ).split()
    },
    "relu": jax.nn.relu,
    "sigmoidal": jax.nn.sigmoid,
    **{
        name: getattr(jax.lax, name) for name in "top_k dynamic_index_in_dim dynamic_slice_in_dim dynamic_slice".split()
    },
}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, *NAMED)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_positional_parameters(name):
    """They are a prefix of JAX's: names, order and defaults; where JAX's are positional-only the name is free."""
    theirs = list(inspect.signature(COUNTERPARTS[name]).parameters.values())
    ours = [p for p in inspect.signature(getattr(sj, name)).parameters.values() if p.kind in POSITIONAL]
    if theirs and theirs[0].kind == inspect.Parameter.VAR_POSITIONAL:
        assert all(p.kind == inspect.Parameter.POSITIONAL_ONLY for p in ours)
        return
    assert len(ours) <= len(theirs)
    for mine, other in zip(ours, theirs, strict=False):
        assert other.kind in POSITIONAL, f"{mine.name} is not positional in JAX"
        if other.kind in NAMED:
            assert mine.name == other.name and mine.kind in NAMED
        # A default may stand where JAX requires the argument (heaviside) or would refuse its own default (where).
        if other.default is not inspect.Parameter.empty and name != "where":
            # clip's `arr=None` is a leftover of a deprecated keyword: without it JAX's call fails as ours does.
            if not (name == "clip" and other.name == "arr"):
                assert mine.default == other.default


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_keywords_that_jax_has_too(name):
    """A keyword of the same name has the same default. `mode` and jnp.quantile's `method` mean something else here."""
    theirs = inspect.signature(COUNTERPARTS[name]).parameters
    for mine in inspect.signature(getattr(sj, name)).parameters.values():
        if mine.kind == inspect.Parameter.KEYWORD_ONLY and mine.name in theirs and mine.name not in ("mode", "method"):
            other = theirs[mine.name].default
            assert mine.default == other or (not mine.default and not other), mine.name
