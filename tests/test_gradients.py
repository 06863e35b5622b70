"""Gradients of weighted losses against central differences of the oracle, in float64, in x and in softness."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import Case, x64

import softjax as sj

STEP = 2e-6  # Rounding / STEP and STEP^2 x third derivative meet near 1e-8.


def weighted(value, weights):
    """Sum over the leaves of <weights, value>."""
    value = value if isinstance(value, tuple) else (value,)
    return sum(np.vdot(w, v) for w, v in zip(weights, value, strict=True))


def check(case, x, softness, directions, seed=0):
    """Directional derivatives of the package's gradient against differences of the oracle's loss."""
    weights = [np.random.default_rng(seed).normal(size=v.shape) for v in jax.tree.leaves(case.expected(x, softness))]
    with x64():
        dx, dsoftness = cases.compiled_gradient(case)(jnp.asarray(x), softness, tuple(map(jnp.asarray, weights)))
        dx, dsoftness = np.asarray(dx), float(dsoftness)

    def difference(move, soften):
        ahead = weighted(case.expected(x + STEP * move, softness + STEP * soften), weights)
        behind = weighted(case.expected(x - STEP * move, softness - STEP * soften), weights)
        return (ahead - behind) / (2 * STEP)

    actual = [np.vdot(dx, d) for d in directions] + [dsoftness]
    expected = [difference(d, 0) for d in directions] + [difference(0 * x, 1)]
    # The error of a central difference scales with the loss' own size, of which the largest slope is the measure.
    scale = 1 + np.abs(expected).max() + np.linalg.norm(dx)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * scale)


NAMES = ("sort", "top_k", "ranking", "quantile", "median")


def alternating(parity):
    """Half of all: every other operator in each mode and method, two modes for each operator and method."""
    return [
        (name, mode, method)
        for i, (method, modes) in enumerate((cases.METHODS | cases.VALUE_METHODS).items())
        for j, mode in enumerate(cases.SOFT_MODES)
        for k, name in enumerate(NAMES)
        if (i + j + k) % 2 == parity and mode in modes
    ]


@pytest.mark.parametrize(("name", "mode", "method"), alternating(1))
def test_short_rows(name, mode, method):
    """n = 5, every coordinate; top_k covers values and indices. Of the other half `test_long_rows` is."""
    x = cases.sample(5, 11)
    check(Case(name, mode, method, -1), x, 0.2, list(np.eye(5)))


@pytest.mark.parametrize(("name", "mode", "method"), alternating(0))
def test_long_rows(name, mode, method):
    """n = 64, random directions."""
    x = cases.sample(64, 12)
    directions = np.random.default_rng(13).normal(size=(3, 64)) / 8
    check(Case(name, mode, method, -1), x, 0.1, list(directions))


@pytest.mark.parametrize(
    ("mode", "method"),
    [pytest.param(*c, marks=cases.slow_unless(c in cases.REPRESENTATIVES)) for c in cases.PRODUCT],
)
def test_gate_stops_the_permutation(mode, method):
    """With gated_grad=False only the payload's gradient remains: the soft permutation, transposed."""
    x = cases.sample(5, 14)
    how = {"softness": 0.2, "mode": mode, "method": method}
    weights = {
        "sort": np.arange(5) - 1.5,
        "max": np.array(2.0),
        "top_k": np.array([1.0, -2.0]),
        "quantile": np.array(1.5),
    }
    plans = {
        "sort": oracle.argsort(x, **how),
        "max": oracle.argmax(x, **how)[None],
        "top_k": oracle.argtop_k(x, cases.K, **how),
        "quantile": oracle.quantile_row(x, cases.Q, **how)[None],
    }
    with x64():

        def loss(x):
            out = {name: Case(name, mode, method, -1)(x, 0.2, gated_grad=False) for name in weights}
            out["top_k"] = out["top_k"][0]
            return {name: jnp.vdot(jnp.asarray(weights[name]), value) for name, value in out.items()}

        actual = jax.jit(jax.jacrev(loss))(jnp.asarray(x))
    for name, plan in plans.items():
        atol = cases.tolerance("float64", 5, cases.conditioning(x, 5, 0.2, method), method)
        np.testing.assert_allclose(actual[name], np.atleast_1d(weights[name]) @ plan, rtol=0, atol=10 * atol)


@cases.elementwise_cases(modes=cases.SOFT_MODES)
def test_elementwise(name, mode, options):
    """Derivatives in every argument and in softness, away from the kinks of c0."""
    args = [a + shift for a, shift in zip(cases.elementwise_inputs(name), (0.0, 0.013), strict=False)]
    weights = np.random.default_rng(15).normal(size=args[0].shape)
    softness = 0.37
    operator = cases.ELEMENTWISE[name]

    def loss(args, softness):
        return jnp.vdot(weights, operator.call(name, args, softness, mode, **dict(options)))

    with x64():
        dargs, dsoftness = jax.jit(jax.grad(loss, (0, 1)))([jnp.asarray(a) for a in args], softness)

    def value(moved, softness):
        return operator.oracle(*moved, softness, mode, **dict(options))

    for i, slope in enumerate(dargs):
        ahead = [a + STEP * (i == j) for j, a in enumerate(args)]
        behind = [a - STEP * (i == j) for j, a in enumerate(args)]
        expected = weights * (value(ahead, softness) - value(behind, softness)) / (2 * STEP)
        np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-6 * (1 + np.abs(expected).max()))
    expected = weights @ (value(args, softness + STEP) - value(args, softness - STEP)) / (2 * STEP)
    np.testing.assert_allclose(dsoftness, expected, rtol=0, atol=1e-6 * (1 + abs(expected)))


# Zero, the bounds of `clip`, integers and half-integers, what lies 5 softnesses (the ends of the sparse steps) or, of
# the smallest, 10,000 (where the smooth ones are cut) from one of them, and infinities.
SOFTNESSES = (0.01, 0.05, 0.1, 0.2, 0.3, 1.0)
CENTRES = np.array([0.0, -0.5, 0.7, 0.5, 1.0, -1.5])
INFINITE = np.array([np.inf, -np.inf])


def special(softness):
    """The points at one softness, in float32; and their partners in a comparison: the centre each belongs to."""
    far = 1e4 if softness == min(SOFTNESSES) else 2.0
    ends = np.float32(softness) * np.array([[0.0], [5.0], [-5.0], [far]], np.float32)
    centres = np.broadcast_to(CENTRES.astype(np.float32), (4, 6))
    return np.append(centres + ends, INFINITE).astype(np.float32), np.append(centres, INFINITE[::-1]).astype(np.float32)


@functools.cache
def compiled_slopes(name, mode, options):
    """Value, and derivatives in every argument and in the softness of each element, in one program."""
    operator = cases.ELEMENTWISE[name]

    def value(args, softness):
        return operator.call(name, args, softness, mode, **dict(options))

    def slopes(args, softness):
        out, pullback = jax.vjp(value, args, softness)
        forward = jax.jvp(lambda s: value(args, s), (softness,), (jnp.ones_like(softness),))[1]
        return out, *pullback(jnp.ones_like(out)), forward

    return jax.jit(slopes)


@cases.elementwise_cases(modes=cases.SOFT_MODES)
def test_elementwise_at_special_points(name, mode, options):
    """Where a bound, a step's end or a half-integer is met exactly, the derivative is the true one; at a kink, between
    the two sides. At infinity it is finite."""
    operator = cases.ELEMENTWISE[name]
    for softness in SOFTNESSES:
        args = operator.legal(special(softness)[: operator.arity])
        tau = np.full(args[0].shape, softness, np.float32)
        value, dargs, dtau, forward = compiled_slopes(name, mode, options)(args, tau)
        for slope in (*dargs, dtau, forward):
            assert np.isfinite(slope).all()
        assert not np.isnan(value).any()
        near = np.isfinite(args[0])
        exact = [a[near].astype(np.float64) for a in (*args, tau)]
        oracle_value = lambda *moved: operator.oracle(*moved[:-1], moved[-1], mode, **dict(options))
        for i, slope in enumerate((*dargs, dtau)):
            sides = []
            # In float32 a point may lie beside the kink that is meant.
            for step in (1e-5, -1e-5):
                closer, further = ([a + by * (i == j) for j, a in enumerate(exact)] for by in (step / 10, step))
                sides.append((oracle_value(*further) - oracle_value(*closer)) / (0.9 * step))
            low, high = np.minimum(*sides), np.maximum(*sides)
            # Rounding of x / tau, and what a side changes over a step.
            size = np.max([np.abs(low), np.abs(high), np.ones_like(low)], axis=0)
            slack = (1e-4 + 2e-5 / softness) * size * 10 ** dict(options).get("decimals", 0)
            have = np.asarray(slope)[near]
            assert ((have >= low - slack) & (have <= high + slack)).all(), (softness, i, exact[0], have, low, high)


@cases.elementwise_cases(modes=cases.SOFT_MODES)
def test_elementwise_at_extreme_softness(name, mode, options):
    """From below the smallest normal float32 to near the largest: no NaN, and no infinite derivative at rest."""
    operator = cases.ELEMENTWISE[name]
    args = operator.legal(special(0.1)[: operator.arity])
    for softness in (1e-38, 1e-20, 1e20, 1e38):
        tau = np.full(args[0].shape, softness, np.float32)
        value, dargs, dtau, forward = compiled_slopes(name, mode, options)(args, tau)
        for out in (value, *dargs, dtau, forward):
            assert not np.isnan(out).any(), softness
        for slope in (*dargs, dtau, forward):
            assert np.isfinite(slope).all(), softness


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
@pytest.mark.parametrize("name", ["relu", "gated relu", "abs", "clip", "gated clip"])
def test_ramps_at_every_scale(mode, name):
    """f(c x; c softness) = c f(x; softness), of the same slope, also where 1 / softness is no normal number.

    Forward and backward, whether a program knows the softness or not.
    """
    operators = {"relu": sj.relu, "abs": sj.abs, "clip": lambda x, **how: sj.clip(x, max=0 * x, **how)}
    operator = functools.partial(operators[name.split()[-1]], mode=mode)
    if "gated" in name:
        operator = functools.partial(operator, gated=True)
    x, softness = jnp.asarray([-1.9, -0.5, 0.0, 0.25, 1.7]), 0.4
    want = operator(x, softness=softness), jax.grad(lambda x: operator(x, softness=softness).sum())(x)

    def backward(x, tau):
        out, pull = jax.vjp(lambda x: operator(x, softness=tau), x)
        return out, *pull(jnp.ones_like(x))

    def forward(x, tau):
        return jax.jvp(lambda x: operator(x, softness=tau), (x,), (jnp.ones_like(x),))

    for scale in (2.0**-100, 1e30, 2.0**126):
        tau = softness * scale
        known = jax.jit(functools.partial(backward, tau=tau))
        for have in (jax.jit(backward)(x * scale, tau), known(x * scale), jax.jit(forward)(x * scale, tau)):
            for a, b in zip((have[0] / scale, have[1]), want, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6, err_msg=f"at {scale}")


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
@pytest.mark.parametrize("gated", [False, True])
def test_ramps_far_below_the_softness(mode, gated):
    """Half of x, and of its slope, where x / softness is no normal number."""
    x = jnp.asarray([-3.0, 0.25, 2.0])
    for softness in (1e38, jnp.asarray(1.5e38)):
        rise = lambda x, tau=softness: sj.relu(x, softness=tau, mode=mode, gated=gated)
        for of in (rise, jax.jit(rise)):
            if gated:
                np.testing.assert_allclose(of(x), x / 2, rtol=1e-6)
            np.testing.assert_allclose(jax.grad(lambda x, of=of: of(x).sum())(x), 0.5, rtol=1e-6)


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
def test_the_sign_of_a_small_number_keeps_its_digits(mode):
    """And so does abs: both are polynomials in x / softness to first order."""
    slope = jax.grad(lambda x: sj.sign(x, softness=1.0, mode=mode))(0.0)
    x = jnp.asarray([1e-20, -1e-6, 1e-3])
    np.testing.assert_allclose(sj.sign(x, softness=1.0, mode=mode), slope * x, rtol=1e-6)
    np.testing.assert_allclose(sj.abs(x, softness=1.0, mode=mode), slope * x**2, rtol=1e-6)


@pytest.mark.parametrize("method", ["softsort", "neuralsort"])
@pytest.mark.parametrize("implementation", [None, "dense"])
def test_a_neighbour_exactly_at_the_reach(method, implementation):
    """In c0 an element whose weight just ends has a kink: the gradient lies between those of either side."""
    how = {"mode": "c0", "softness": 1.0, "method": method, "implementation": implementation}
    y = jnp.asarray([50.0, 70.0])
    operators = {
        "max": (lambda x: sj.max(x, **how), [1000.0, 999.0]),
        "row times payload": (lambda x: sj.soft_permutation(x, **how)[-1] @ y, [1.0, 2.0]),
        "second of top_k": (lambda x: sj.top_k(x, 2, **how)[0][1], [float(i) for i in range(20)]),
    }
    for name, (operator, x) in operators.items():
        at, *sides = (
            np.asarray(jax.grad(operator)(jnp.asarray(x) * (1 + move)), np.float64) for move in (0.0, -1e-3, 1e-3)
        )
        assert (at >= np.minimum(*sides) - 1e-2).all() and (at <= np.maximum(*sides) + 1e-2).all(), (name, at, sides)
        assert abs(at.sum() - (0 if name == "row times payload" else 1)) < 1e-3, (name, at)


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
def test_round_is_one_function_in_every_program(mode):
    """Its derivative is the same eagerly, under jit, and with the softness a constant."""
    x = jnp.asarray(np.concatenate([np.arange(-3, 4) / 2, [0.25]]), jnp.float32)
    for softness in (0.1, 0.3, 0.4):
        slope = jax.grad(lambda x, softness: sj.round(x, softness=softness, mode=mode).sum())
        outs = slope(x, softness), jax.jit(slope)(x, softness), jax.jit(functools.partial(slope, softness=softness))(x)
        for out in outs[1:]:
            np.testing.assert_allclose(out, outs[0], rtol=0, atol=1e-5)
        if mode == "c0" and softness != 0.4:  # steps end to end: the identity
            np.testing.assert_allclose(outs[0], 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
def test_second_derivatives_at_special_points(mode):
    """Of what has a continuous one there, against differences of the first."""
    if mode == "c0":
        return
    with x64():
        x, h = np.array([-0.5, 0.0, 0.5, 0.7, 1.0]), 1e-6
        operators = [sj.sigmoidal, sj.relu, sj.sign, functools.partial(sj.clip, min=-0.5, max=0.7)]
        operators += [functools.partial(sj.equal, jnp.zeros(()), normalize=True), sj.round, sj.abs]
        if mode == "c1":  # one continuous derivative of a step, two of its integral
            operators = [sj.relu, operators[3]]
        for operator in operators:
            value = lambda x, f=operator: f(x, softness=0.1, mode=mode)
            first = jax.jit(jax.vmap(jax.grad(value)))
            expected = (first(x + h) - first(x - h)) / (2 * h)
            second = jax.jit(jax.vmap(jax.grad(jax.grad(value))))
            np.testing.assert_allclose(second(x), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("mode", cases.SOFT_MODES)
def test_normalised_equality_has_no_kink(mode):
    """1 and flat at equality on both sides, even in the difference, falling, with the tail of 2 S(-|t|)."""
    with x64():
        t = jnp.linspace(0.0, 12.0, 241)
        near = jnp.asarray([-1e-4, 0.0, 1e-4])
        for name, options in (("equal", {}), ("isclose", {"atol": 2.0})):
            form = lambda t, n=name, o=options: getattr(sj, n)(
                t, jnp.zeros(()), softness=1.0, mode=mode, normalize=True, **o
            )
            value = jax.vmap(form)(t)
            assert (
                value[0] > 1 - 1e-15 and (value >= 0).all() and (value <= 1).all() and (jnp.diff(value) <= 1e-15).all()
            )
            np.testing.assert_allclose(jax.vmap(form)(-t), value, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(jax.vmap(jax.grad(form))(near), 0, rtol=0, atol=1e-3)
        value = sj.equal(t, jnp.zeros_like(t), softness=1.0, mode=mode, normalize=True)
        if mode == "smooth":
            np.testing.assert_allclose(value, 1 / np.cosh(t), rtol=1e-12)
        tail = 2 * sj.sigmoidal(-t, softness=1.0, mode=mode)
        small = (tail > 0) & (tail < 1e-3)
        np.testing.assert_allclose(value[small], tail[small], rtol=1e-3)


@pytest.mark.parametrize("geometric", [True, False])
@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name, geometric):
    """Derivatives of the SoftBool logic inside the unit square."""
    x, y = np.random.default_rng(16).uniform(0.1, 0.9, size=(2, 6))
    with x64():
        slope = jax.grad(lambda x: getattr(sj, name)(x, jnp.asarray(y), use_geometric_mean=geometric).sum())(
            jnp.asarray(x)
        )
    reference = getattr(oracle, name)
    expected = (reference(x + STEP, y, geometric) - reference(x - STEP, y, geometric)) / (2 * STEP)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-6 * (1 + np.abs(expected).max()))


def test_logic_gradients_are_finite_at_the_corners():
    """Exactly false and exactly true inputs: the floor keeps logarithms finite."""
    corners = jnp.asarray([0.0, 0.0, 1.0, 1.0]), jnp.asarray([0.0, 1.0, 0.0, 1.0])
    for name in ("logical_and", "logical_or", "logical_xor"):
        function = getattr(sj, name)
        slopes = jax.grad(lambda x, y, f=function: f(x, y).sum(), (0, 1))(*corners)
        assert np.isfinite(slopes).all()
    for geometric in (True, False):
        for function in (sj.all, sj.any):
            slope = jax.grad(lambda p, f=function, g=geometric: f(p, use_geometric_mean=g))(
                jnp.asarray([0.0, 1.0, 0.5])
            )
            assert np.isfinite(slope).all()
