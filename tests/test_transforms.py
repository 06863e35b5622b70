"""jit, vmap, jvp, hessian, and compilation counts."""

import functools

import cases
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, REPRESENTATIVES, Case, tolerance, x64

import softjax as sj

SHAPE = (3, 6)
# One of each kind: all rows, few rows with their weights, ranks, a blend.
NAMES = ("sort", "top_k", "ranking", "quantile")
# Each method in one mode, smooth or sparse; the other representatives are slow.
LINES = [pytest.param(*c, marks=cases.slow_unless(c in cases.ONE_MODE)) for c in REPRESENTATIVES]
SOFT = pytest.mark.parametrize(("mode", "method"), LINES)
EVERY = pytest.mark.parametrize(("mode", "method"), [*LINES, ("hard", "ot")])


def assert_same(left, right, x, method, mode):
    """Same structure, shapes and dtypes; values to float32 rounding."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    n = SHAPE[-1]
    condition = 1 if mode == "hard" else cases.conditioning(x, n, 0.1, method)
    atol = tolerance("float32", n, n * condition, method)
    for name in left:
        assert left[name].shape == right[name].shape and left[name].dtype == right[name].dtype
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=atol, err_msg=name)


@EVERY
def test_jit_equals_eager(mode, method):
    """Compiled and op by op."""
    x = cases.sample(SHAPE, 30, np.float32)
    assert_same(
        cases.numpy_bundle(mode, method, x, 0.1, NAMES),
        cases.bundle(mode, method, jnp.asarray(x), 0.1, NAMES),
        x,
        method,
        mode,
    )


@EVERY
def test_vmap_equals_batch(mode, method):
    """vmap(f)(X) == f(X), with a shared softness and with one softness for every row."""
    x = cases.sample(SHAPE, 31, np.float32)
    row = functools.partial(cases.bundle, mode, method, names=NAMES)
    softness = jnp.asarray([0.1, 0.5, 2.0])
    mapped = jax.jit(jax.vmap(row))(jnp.asarray(x), softness)
    assert_same(mapped, cases.numpy_bundle(mode, method, x, softness, NAMES), x, method, mode)


@SOFT
def test_gradient_of_a_batch_of_batches(mode, method):
    """Gradients of rows with several batch axes, and of a mapped operator, are those of the rows one by one."""
    x = jnp.asarray(cases.sample(48, 17).reshape(2, 3, 8), jnp.float32)
    how = {"mode": mode, "method": method}
    for operator in (
        lambda a: sj.top_k(a, 2, **how)[0],
        lambda a: sj.argtop_k(a, 1, **how),
        lambda a: sj.max(a, axis=-1, **how),
        lambda a: sj.sort(a, **how),
    ):
        loss = lambda a, operator=operator: jnp.sum(jnp.sin(operator(a)))
        flat = jax.grad(loss)(x.reshape(6, 8))
        np.testing.assert_allclose(jax.grad(loss)(x).reshape(6, 8), flat, rtol=0, atol=1e-6)
        mapped = jax.grad(lambda a, loss=loss: jnp.sum(jax.vmap(loss)(a)))(x)
        np.testing.assert_allclose(mapped.reshape(6, 8), flat, rtol=0, atol=1e-6)


@SOFT
def test_vmap_over_other_axes(mode, method):
    """in_axes and out_axes away from the front, and softness alone mapped."""
    x = jnp.asarray(cases.sample((5, 3), 32, np.float32))
    sort = functools.partial(sj.sort, mode=mode, method=method)
    atol = tolerance("float32", 5, 3 * cases.conditioning(x, 5, 0.1, method), method)

    @jax.jit
    def run(x, softness):
        columns = jax.vmap(sort, in_axes=1, out_axes=1)(x)
        return columns, jax.vmap(lambda s: sort(x, axis=0, softness=s))(softness)

    columns, soft = run(x, jnp.asarray([0.1, 1.0]))
    case = Case("sort", mode, method, 0)
    np.testing.assert_allclose(columns, case.expected(x, 0.1), rtol=0, atol=atol)
    np.testing.assert_allclose(soft[1], case.expected(x, 1.0), rtol=0, atol=atol)


@SOFT
def test_jvp_is_the_transpose_of_vjp(mode, method):
    """<w, J v> = <J^T w, v>, for x and softness together."""
    rng = np.random.default_rng(33)
    with x64():
        x, softness = jnp.asarray(cases.sample(SHAPE, 33)), jnp.asarray(0.3)

        @jax.jit
        def both(x, softness, v, s):
            function = functools.partial(cases.bundle, mode, method, names=NAMES)
            out, tangent = jax.jvp(function, (x, softness), (v, s))
            weights = jax.tree.map(lambda t: jnp.cos(jnp.arange(t.size, dtype=t.dtype)).reshape(t.shape), out)
            _, pull = jax.vjp(function, x, softness)
            dx, ds = pull(weights)
            forward = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, weights, tangent)))
            return forward, jnp.vdot(dx, v) + ds * s

        forward, backward = both(x, softness, jnp.asarray(rng.normal(size=SHAPE)), jnp.asarray(0.7))
    np.testing.assert_allclose(forward, backward, rtol=1e-7)


@pytest.mark.parametrize(
    ("method", "mode", "names"),
    [
        *((method, "smooth", ("sort", "quantile")) for method in METHODS),
        ("softsort", "c2", ("top_k", "ranking")),
        *(pytest.param(method, "c2", ("top_k", "ranking"), marks=pytest.mark.slow) for method in ("neuralsort", "ot")),
    ],
)
def test_hessian(method, mode, names):
    """Finite and equal to differences of the gradient; c0 and c1 have jumps in it."""
    x = cases.sample(4, 34)
    step = 1e-5
    with x64():

        def loss(x):
            out = cases.bundle(mode, method, x, 0.5, names)
            return sum(
                jnp.sum(jnp.sin(value * (1 + jnp.arange(value.shape[-1]))) if value.ndim else value**2)
                for value in out.values()
            )

        def promoted(x):
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                return loss(x)

        slope = jax.jit(jax.grad(promoted))
        hessian = np.asarray(jax.jit(jax.hessian(promoted))(jnp.asarray(x)))
        ahead = np.stack([slope(jnp.asarray(x + step * e)) for e in np.eye(4)])
        behind = np.stack([slope(jnp.asarray(x - step * e)) for e in np.eye(4)])
    assert np.isfinite(hessian).all()
    np.testing.assert_allclose(hessian, (ahead - behind) / (2 * step), rtol=0, atol=1e-5 * (1 + np.abs(hessian).max()))


COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: COMPILATIONS.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.mark.parametrize("method", METHODS)
def test_second_call_compiles_nothing(method):
    """Neither under jit nor op by op does another softness or other data compile again; another shape does."""
    x = jnp.asarray(cases.sample((2, 5), 35, np.float32))
    other = x[:, ::-1] * 2
    for name in ("sort", "argtop_k", "ranking", "median", "top_k"):
        case = Case(name, "smooth", method, -1)
        fast = jax.jit(case)
        fast(x, 0.1), case(x, 0.1), case(x, 0.1)
        COMPILATIONS.clear()
        fast(other, 0.25), case(other, 0.25)
        assert not COMPILATIONS, name
    fast(x[:, :4], 0.1)
    assert COMPILATIONS, "the count cannot fail"


@cases.elementwise_cases_in_turn()
def test_elementwise_jit_vmap_jvp(name, mode, options):
    """jit == eager, vmap == batch, and forward == reverse mode."""
    operator = cases.ELEMENTWISE[name]
    args = tuple(jnp.asarray(a) for a in cases.elementwise_inputs(name, np.float32))
    eager = operator.call(name, args, 0.3, mode)
    atol = tolerance("float32", 1, 10)
    np.testing.assert_allclose(cases.compiled_elementwise(name, mode)(args, 0.3), eager, rtol=0, atol=atol)

    @jax.jit
    def mapped(args):
        return jax.vmap(lambda *a: operator.call(name, a, 0.3, mode))(*args)

    np.testing.assert_allclose(mapped(args), eager, rtol=0, atol=atol)

    @jax.jit
    def slopes(args):
        def function(a):
            return operator.call(name, (a, *args[1:]), 0.3, mode)

        ones = jnp.ones_like(args[0])
        return jax.jvp(function, (args[0],), (ones,))[1], jax.vjp(function, args[0])[1](ones)[0]

    forward, backward = slopes(args)
    np.testing.assert_allclose(forward, backward, rtol=0, atol=10 * atol)


# --- programs for export, and linear transposes ---------------------------------------------------------

EXPORTED = {
    "relu": lambda x: sj.relu(x),
    "clip c1": lambda x: sj.clip(x, -1.0, 1.0, mode="c1"),
    "where": lambda x: sj.where(sj.greater(x, x[..., ::-1]), x, 0.0),
    "isclose": lambda x: sj.isclose(x, 0.5, mode="c0"),
    "sort": lambda x: sj.sort(x),
    "rank neuralsort": lambda x: sj.rank(x, method="neuralsort"),
    "max c1": lambda x: sj.max(x, axis=-1, mode="c1"),
    "mask ot": lambda x: sj.top_k_mask(x, 2.0),
    "product": lambda x: sj.soft_permutation(x) @ x[..., None],
    "top_k_st": lambda x: sj.top_k_st(x, 2)[0],
}


@pytest.mark.parametrize("rows", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_a_symbolic_batch(name, rows):
    """Value and gradient of an exported program, called with a batch size of which it knows nothing."""
    function = lambda x: (EXPORTED[name](x), jax.grad(lambda x: jnp.sum(jnp.sin(EXPORTED[name](x))))(x))
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 18"), jnp.float32)
    exported = jax.export.export(jax.jit(function))(shape)
    x = jnp.asarray(cases.sample((3, 18), 36, np.float32))
    want = jax.jit(function)(x)
    atol = tolerance("float32", 18, 18 * cases.conditioning(x, 18, 0.1, "neuralsort"))
    for have, wanted in zip(exported.call(x[:rows]), want, strict=True):
        np.testing.assert_allclose(have, wanted[:rows], rtol=0, atol=atol)


@pytest.mark.parametrize(("mode", "method"), [("smooth", "softsort"), ("c1", "softsort"), ("smooth", "neuralsort")])
def test_linear_transpose_of_products(mode, method):
    """P @ y and P.T @ y are linear in y, also where P is made by a fast form, of keys known or traced."""
    x, y = (jnp.asarray(cases.sample(18, seed, np.float32)) for seed in (37, 38))
    p = sj.soft_permutation(x, mode=mode, method=method)
    dense = p.todense()
    atol = tolerance("float32", 18, 18 * cases.conditioning(x, 18, 0.1, method))

    @jax.jit
    def traced(p):
        return jax.linear_transpose(lambda y: p @ y, y)(y)[0]

    np.testing.assert_allclose(traced(p), y @ dense, rtol=0, atol=atol)
    np.testing.assert_allclose(jax.linear_transpose(lambda y: p @ y, y)(y)[0], y @ dense, rtol=0, atol=atol)
    np.testing.assert_allclose(jax.linear_transpose(lambda y: p.T @ y, y)(y)[0], dense @ y, rtol=0, atol=atol)
    np.testing.assert_allclose(jax.linearize(lambda y: p @ y, y)[1](y), dense @ y, rtol=0, atol=atol)
    many = jax.vmap(lambda y: p @ y, in_axes=1, out_axes=1)(jnp.stack([y, -y], 1))
    np.testing.assert_allclose(many, jnp.stack([dense @ y, -dense @ y], 1), rtol=0, atol=atol)


SYMBOLIC = {
    "relu": lambda x: sj.relu(x),
    "max": lambda x: sj.max(x, axis=-1),
    "argmin c1": lambda x: sj.argmin(x, axis=-1, mode="c1"),
    "max neuralsort": lambda x: sj.max(x, axis=-1, method="neuralsort"),
    "median": lambda x: sj.median(x, axis=-1, method="softsort"),
    "median neuralsort": lambda x: sj.median(x, axis=-1, method="neuralsort"),
    "median ot": lambda x: sj.median(x, axis=-1, method="ot"),
    "sort": lambda x: sj.sort(x, descending=True),
    "sort c1": lambda x: sj.sort(x, mode="c1"),
    "sort neuralsort": lambda x: sj.sort(x, method="neuralsort"),
    "sort ot": lambda x: sj.sort(x, method="ot"),
    "sort ot c1": lambda x: sj.sort(x, method="ot", mode="c1"),
    "sort with a payload": lambda x: sj.sort((x, jnp.sin(x)))[1],
    "sort_st": lambda x: sj.sort_st(x, implementation="dense"),
    "argsort": lambda x: sj.argsort(x),
    "top_k": lambda x: sj.top_k(x, 2)[0],
    "argtop_k ot": lambda x: sj.argtop_k(x, 2, method="ot"),
    "top_k hard": lambda x: sj.top_k(x, 2, mode="hard")[0],
    "rank": lambda x: sj.rank(x),
    "rank c2": lambda x: sj.rank(x, mode="c2"),
    "rank neuralsort": lambda x: sj.rank(x, method="neuralsort"),
    "rank ot": lambda x: sj.rank(x, method="ot"),
    "rank hard": lambda x: sj.rank(jnp.round(x), mode="hard"),
    "ranking_st": lambda x: sj.ranking_st(x),
    "mask": lambda x: sj.top_k_mask(x, 1.5),
    "mask softsort": lambda x: sj.top_k_mask(x, 1.5, method="softsort"),
    "mask c1": lambda x: sj.bottom_k_mask(x, 1.5, method="softsort", mode="c1"),
    "dynamic_slice_in_dim": lambda x: sj.dynamic_slice_in_dim(x, sj.argmax(x[0]), 2, axis=1),
    "product": lambda x: sj.soft_permutation(x) @ x[..., None],
    "product of the transpose": lambda x: sj.soft_permutation(x, method="neuralsort").T @ x[..., None],
}


# Of operators by several methods or modes, whose other forms ci/nightly.sh exports.
LATER = {"argmin c1", "max neuralsort", "median", "median ot", "sort c1", "sort_st", "argsort", "top_k hard"}
LATER |= {
    "sort ot c1",
    "rank ot",
    "rank neuralsort",
    "rank hard",
    "ranking_st",
    "mask",
    "mask c1",
    "sort with a payload",
    "product",
}
assert LATER < SYMBOLIC.keys()


@pytest.mark.parametrize("n", [5, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(n, marks=cases.slow_unless(n not in LATER)) for n in SYMBOLIC])
def test_export_with_a_symbolic_row_length(name, n):
    """Value and gradient of an exported program, called with a length of which it knows nothing."""
    function = lambda x: (SYMBOLIC[name](x), jax.grad(lambda x: jnp.sum(jnp.sin(SYMBOLIC[name](x))))(x))
    enough = ("n >= 2",) if "top_k" in name or "slice" in name else ()  # as JAX's own
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("2, n", constraints=enough), jnp.float32)
    exported = jax.export.export(jax.jit(function))(shape)
    x = jnp.asarray(cases.sample((2, n), n, np.float32))
    for have, wanted in zip(exported.call(x), jax.jit(function)(x), strict=True):
        np.testing.assert_allclose(have, wanted, rtol=0, atol=tolerance("float32", n, 100))


REFUSED = {
    "a kernel by name": lambda x: sj.argsort(x, implementation="pallas_interpret"),
    "a slice": lambda x: sj.soft_permutation(x)[:2].todense(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_symbolic_row_length_is_refused_by_name(name):
    """One message, that says what to do."""
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("2, n"), jnp.float32)
    with pytest.raises(NotImplementedError, match=r"length along `axis` \(=n\) must be.*fixed length"):
        jax.export.export(jax.jit(REFUSED[name]))(shape)
