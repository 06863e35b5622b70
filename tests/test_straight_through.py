"""Straight-through: the hard value, the soft derivative, and no soft operator where nothing is differentiated."""

import copy
import functools
import pickle
import re

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, tolerance

import softjax as sj

X = cases.sample((3, 5), 60, np.float32)
ARRAY_CALLS = {name: operator.positional for name, operator in cases.ARRAY.items()}


def call(name, x, suffix="", **options):
    """The operator, or its straight-through form, on x alone."""
    if name in cases.ARRAY:
        return getattr(sj, name + suffix)(x, *ARRAY_CALLS[name], axis=-1, **options)
    operator = cases.ELEMENTWISE[name]
    args = (x, x[:, ::-1])[: operator.arity]
    return getattr(sj, name + suffix)(*args, *operator.positional, **options)


NAMES = (*cases.ARRAY, *cases.ELEMENTWISE)


def operations(function, x):
    """The names of the operations in the lowered text."""
    return set(re.findall(r"\b(?:stablehlo|chlo)\.(\w+)", jax.jit(function).lower(x).as_text()))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_hard_operator_runs(name):
    """The lowered program has no operation that the hard one's has not."""
    x = jnp.asarray(X)
    straight = operations(lambda x: call(name, x, "_st"), x)
    hard = operations(lambda x: call(name, x, mode="hard"), x)
    assert straight <= hard
    soft = operations(lambda x: call(name, x), x)
    assert not soft <= hard, "the comparison cannot fail"


def primitives(jaxpr):
    """The names of all primitives, also of inner jaxprs."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                names |= primitives(inner)
    return names


@pytest.mark.parametrize("name", ["relu", "sort", "argtop_k", "ranking", "median", "greater"])
def test_jaxpr_has_no_soft_operator(name):
    """The same on the jaxpr: a wrapper and the hard operator's primitives, none of the soft one's own."""
    x = jnp.asarray(X)
    straight = primitives(jax.make_jaxpr(lambda x: call(name, x, "_st"))(x).jaxpr)
    hard = primitives(jax.make_jaxpr(lambda x: call(name, x, mode="hard"))(x).jaxpr)
    soft = primitives(jax.make_jaxpr(lambda x: call(name, x))(x).jaxpr)
    wrappers = {"custom_jvp_call", "custom_vjp_call", "pjit", "jit", "closed_call", "core_call"}
    assert straight - hard <= wrappers
    assert soft - hard - wrappers, "the comparison cannot fail"


@pytest.mark.parametrize("name", NAMES)
def test_value_is_hard_and_gradient_is_soft(name):
    """Bit for bit the hard value; the soft operator's gradient, under jit."""
    x = jnp.asarray(X)

    def weigh(out):
        leaves = jax.tree.leaves(out)
        return sum(jnp.vdot(jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape), v) for v in leaves)

    @jax.jit
    def run(x):
        straight = jax.value_and_grad(lambda x: weigh(call(name, x, "_st")))(x)
        soft = jax.grad(lambda x: weigh(call(name, x)))(x)
        return call(name, x, "_st"), straight, soft

    value, (loss, slope), soft = run(x)
    hard = call(name, x, mode="hard")
    for a, b in zip(jax.tree.leaves(value), jax.tree.leaves(hard), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(loss, weigh(hard), rtol=1e-5)
    scale = 1 + np.abs(soft).max()
    np.testing.assert_allclose(slope, soft, rtol=0, atol=tolerance("float32", 5, scale * 10))
    assert np.abs(slope).max() > 0


@cases.each_pair(cases.SOFT_MODES)
def test_modes_and_methods(mode, method):
    """mode and method choose the derivative; the value is hard in each."""
    x, how = jnp.asarray(X), {"mode": mode, "method": method, "softness": 0.5}
    weights = jnp.cos(jnp.arange(5.0))

    @jax.jit
    def run(x):
        straight = jax.value_and_grad(lambda x: (sj.sort_st(x, **how) @ weights).sum())(x)
        return straight, jax.grad(lambda x: (sj.sort(x, **how) @ weights).sum())(x)

    (value, slope), soft = run(x)
    np.testing.assert_allclose(value, (jnp.sort(x) @ weights).sum(), rtol=1e-5)
    atol = tolerance("float32", 5, cases.conditioning(X, 5, 0.5, method) * 5, method)
    np.testing.assert_allclose(slope, soft, rtol=0, atol=atol)


def test_hard_mode_has_the_hard_derivative():
    """mode="hard" asks for the hard operator's own derivative."""
    x = jnp.asarray(X)
    np.testing.assert_array_equal(
        jax.grad(lambda x: sj.relu_st(x, mode="hard").sum())(x), jax.grad(lambda x: jax.nn.relu(x).sum())(x)
    )


def test_transforms():
    """vmap, jvp, nesting, and a derivative in softness."""
    x = jnp.asarray(X)
    np.testing.assert_array_equal(jax.vmap(sj.sort_st)(x), jnp.sort(x))
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda r: sj.top_k_st(r, 2)[0]))(x), jax.lax.top_k(x, 2)[0])
    value, tangent = jax.jvp(sj.sort_st, (x,), (jnp.ones_like(x),))
    soft = jax.jvp(sj.sort, (x,), (jnp.ones_like(x),))[1]
    np.testing.assert_array_equal(value, jnp.sort(x))
    np.testing.assert_allclose(tangent, soft, rtol=1e-5, atol=1e-5)
    per_row = jax.vmap(jax.grad(lambda r: sj.max_st(r)))(x)
    np.testing.assert_allclose(per_row, jax.vmap(jax.grad(lambda r: sj.max(r)))(x), rtol=1e-5, atol=1e-5)
    softness = jnp.asarray(0.3)
    slope = jax.grad(lambda s: sj.sort_st(x, softness=s)[:, 0].sum())(softness)
    expected = jax.grad(lambda s: sj.sort(x, softness=s)[:, 0].sum())(softness)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
    second = jax.grad(lambda y: jax.grad(lambda y: sj.sigmoidal_st(y))(y))(0.05)
    np.testing.assert_allclose(second, jax.grad(jax.grad(lambda y: sj.sigmoidal(y)))(0.05), rtol=1e-4)


EXPENSIVE = ("sort", "exponential", "while", "custom_call", "log")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["sort", "top_k", "ranking", "median", "max", "top_k_mask"])
def test_the_soft_forward_runs_once(name, method):
    """Value and gradient have no more of any expensive operation than the soft operator's own and the hard one's."""
    x = jnp.asarray(np.tile(X, (1, 10)))  # rows so long that the fast forms run

    def counts(suffix="", gradient=True, **options):
        def loss(x):
            leaves = jax.tree.leaves(call(name, x, suffix, method=method, **options))
            return jnp.sum(jnp.sin(leaves[0]))

        text = jax.jit(jax.value_and_grad(loss) if gradient else loss).lower(x).as_text()
        return np.asarray([len(re.findall(rf'"?(?:stablehlo|chlo)\.{operation}\b', text)) for operation in EXPENSIVE])

    straight, soft, hard = counts("_st"), counts(), counts(gradient=False, mode="hard")
    assert (straight <= soft + hard).all(), (straight, soft, hard)
    assert soft.sum() > 0, "the comparison cannot fail"


# --- functions of the user -----------------------------------------------------------------------------


def stepped(x, *, scale=1.0, mode="smooth"):
    """Documented."""
    return jnp.floor(x) if mode == "hard" else scale * x


def test_st_of_a_user_function():
    """The signature stays; keywords reach both forms; other leaves and containers pass through."""
    form = sj.st(stepped)
    x = jnp.asarray([0.5, 1.5])
    np.testing.assert_array_equal(form(x), [0.0, 1.0])
    np.testing.assert_array_equal(jax.grad(lambda x: form(x, scale=3.0).sum())(x), [3.0, 3.0])
    assert form.__wrapped__ is stepped and "Documented." in form.__doc__

    def nested(tree, names, mode="smooth"):
        assert names == ("a", "b")
        a, b = (tree[name] for name in names)
        return {"out": jnp.round(a) if mode == "hard" else a * b.astype(a.dtype)}

    tree = {"a": jnp.asarray([1.4]), "b": jnp.asarray([3])}
    assert sj.st(nested)(tree, ("a", "b"))["out"] == 1.0
    slope = jax.grad(lambda a: sj.st(nested)({"a": a, "b": tree["b"]}, ("a", "b"))["out"].sum())(tree["a"])
    np.testing.assert_array_equal(slope, [3.0])


def test_st_composes_operators():
    """A composition is made straight-through as a whole: one soft path, one hard path."""

    def score(x, y, mode="smooth"):
        return sj.greater(sj.max(x, -1, mode=mode), sj.min(y, -1, mode=mode), mode=mode)

    x, y = jnp.asarray(X), jnp.asarray(X) * 0.5
    np.testing.assert_array_equal(sj.st(score)(x, y), score(x, y, mode="hard"))
    slope = jax.grad(lambda x: sj.st(score)(x, y).sum())(x)
    np.testing.assert_allclose(slope, jax.grad(lambda x: score(x, y).sum())(x), rtol=1e-4, atol=1e-6)


def test_grad_replace():
    """The value of forward=True, the derivative of forward=False."""

    @sj.grad_replace
    def function(x, forward=True):
        return jnp.sign(x) if forward else jnp.sin(x)

    x = jnp.asarray([-0.3, 0.7])
    for wrap in (lambda f: f, jax.jit, jax.vmap):
        np.testing.assert_array_equal(wrap(function)(x), [-1.0, 1.0])
        np.testing.assert_allclose(
            wrap(jax.vmap(jax.grad(function)))(x[None] if wrap is jax.vmap else x).ravel(), np.cos(x), rtol=1e-6
        )
    np.testing.assert_allclose(jax.jvp(function, (x,), (jnp.ones(2),))[1], np.cos(x), rtol=1e-6)


def custom_vjp_soft():
    """3 x with a derivative of 5, by custom_vjp."""

    @jax.custom_vjp
    def soft(x):
        return 3.0 * x

    soft.defvjp(lambda x: (3.0 * x, None), lambda _, g: (5.0 * g,))
    return soft


def custom_jvp_soft():
    """The same by custom_jvp."""

    @jax.custom_jvp
    def soft(x):
        return 3.0 * x

    soft.defjvp(lambda primals, tangents: (soft(*primals), 5.0 * tangents[0]))
    return soft


@pytest.mark.parametrize("make", [custom_vjp_soft, custom_jvp_soft])
def test_soft_function_with_its_own_derivative(make):
    """The custom derivative is the one used: in grad, under jit and vmap, and under remat."""
    soft = make()
    form = sj.st(lambda x, mode="smooth": jnp.floor(x) if mode == "hard" else soft(x))
    x = jnp.asarray([0.5, 2.5])
    slope = jax.grad(lambda x: form(x).sum())
    np.testing.assert_array_equal(form(x), [0.0, 2.0])
    for run in (slope, jax.jit(slope), jax.vmap(jax.grad(form)), jax.jit(jax.vmap(jax.grad(form)))):
        np.testing.assert_array_equal(run(x), [5.0, 5.0])
    np.testing.assert_array_equal(jax.grad(lambda x: jax.checkpoint(form)(x).sum())(x), [5.0, 5.0])
    if make is custom_jvp_soft:
        np.testing.assert_array_equal(jax.jvp(form, (x,), (jnp.ones(2),))[1], [5.0, 5.0])
    replaced = sj.grad_replace(lambda x, forward: jnp.floor(x) if forward else soft(x))
    np.testing.assert_array_equal(jax.grad(lambda x: replaced(x).sum())(x), [5.0, 5.0])


def test_second_value_of_top_k():
    """Both results of top_k_st carry gradients."""
    x = jnp.asarray(X[0])
    slope = jax.grad(lambda x: jnp.vdot(sj.top_k_st(x, 2)[1][0], jnp.arange(5.0)))(x)
    expected = jax.grad(lambda x: jnp.vdot(sj.top_k(x, 2)[1][0], jnp.arange(5.0)))(x)
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)


# --- arguments that are no floats, by position, and pickled ---------------------------------------------

TRACED = {
    "integer": (jnp.asarray([1, 2, 0]), lambda x, i: sj.greater_st(x, i).sum(), lambda x, i: sj.greater(x, i).sum()),
    "bool": (
        jnp.asarray([True, False, True]),
        lambda x, b: sj.st(chosen)(x, b).sum(),
        lambda x, b: chosen(x, b).sum(),
    ),
    "key": (
        jax.random.split(jax.random.key(0), 3),
        lambda x, key: sj.grad_replace(noisy)(x, key=key).sum(),
        lambda x, key: noisy(x, False, key).sum(),
    ),
}


def chosen(x, where, mode="smooth"):
    """A function of a bool."""
    return jnp.round(x) if mode == "hard" else jnp.where(where, 2 * x, x)


def noisy(x, forward, key):
    """A function of a key, with `forward` in its midst."""
    return jnp.round(x) if forward else x * jax.random.normal(key, x.shape)


@pytest.mark.parametrize("kind", TRACED)
def test_traced_arguments_that_are_no_floats(kind):
    """Integers, bools and keys that a scan or vmap traces under grad."""
    given, straight, soft = TRACED[kind]
    x = jnp.asarray([0.3, 1.2])
    total = lambda f: lambda x: jax.lax.scan(lambda c, one: (c + f(x, one), None), 0.0, given)[0]
    with jax.checking_leaks():
        slope = jax.grad(total(straight))(x)
    np.testing.assert_allclose(slope, jax.grad(total(soft))(x), rtol=1e-6)
    per_item = jax.vmap(lambda one: jax.grad(straight)(x, one))(given)
    np.testing.assert_allclose(per_item.sum(0), slope, rtol=1e-6)


def test_no_tracer_is_kept():
    """Not under jit either."""
    with jax.checking_leaks():
        np.testing.assert_array_equal(jax.jit(sj.sort_st)(jnp.asarray([2.0, 1.0])), [1.0, 2.0])


def test_arguments_by_position():
    """`mode` and `forward` in their places, first, last, or among further keywords."""
    form = sj.st(lambda x, mode="smooth", scale=1.0: jnp.round(x) if mode == "hard" else {"c0": 3.0}.get(mode, 1.0) * x)
    assert form(1.2, "c0") == form(1.2, mode="c0") == form(1.2, "c0", 2.0) == 1.0
    assert jax.grad(lambda x: form(x, "c0"))(1.2) == jax.grad(lambda x: form(x, mode="c0"))(1.2) == 3.0
    replaced = sj.grad_replace(lambda x, forward, scale: jnp.round(x) if forward else scale * x)
    for call in (lambda x: replaced(x, True, 3.0), lambda x: replaced(x, scale=3.0), lambda x: replaced(x, False, 3.0)):
        assert jax.value_and_grad(call)(1.2) == (1.0, 3.0)
    loose = sj.st(lambda x, **options: jnp.round(x) if options["mode"] == "hard" else 2 * x)
    assert jax.value_and_grad(lambda x: loose(x, mode="smooth"))(1.2) == (1.0, 2.0)
    with pytest.raises(TypeError, match="missing"):
        form()


def test_pickles():
    """By name, as any function of a module; operators with arguments bound, and permutations, too."""
    for name in filter(lambda name: name.endswith("_st"), dir(sj)):
        form = getattr(sj, name)
        assert pickle.loads(pickle.dumps(form)) is copy.deepcopy(form) is form
    bound = pickle.loads(pickle.dumps(functools.partial(sj.sort_st, softness=0.3)))
    assert bound.func is sj.sort_st and bound.keywords == {"softness": 0.3}
    p = sj.soft_permutation(jnp.asarray([2.0, 1.0, 3.0]))[::-1]
    again = pickle.loads(pickle.dumps(p))
    assert again.ranks == p.ranks
    np.testing.assert_array_equal(again.todense(), p.todense())
