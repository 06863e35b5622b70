"""Transport on points in place of the keys: values and gradients against the dense form in float64, and its path."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import x64

import softjax as sj
from softjax._methods.ot.chebyshev import Interpolated, NodeWeights, lagrange, points
from softjax._primitive import Target

N = 300
ENOUGH = {0.1: N, 0.05: 520, 0.03: 860}
"""Least softness of a grade -> so many keys, of which points stand for all."""


def kinds(n):
    """One row of each kind, as float32 holds it."""
    rng = np.random.default_rng(n)
    half = n // 2
    rows = {
        "normal": rng.normal(size=n),
        "uniform": rng.uniform(size=n) + 5,
        "tied": rng.integers(0, 8, n),
        "two": np.arange(n) % 2,
        "gap": np.concatenate([rng.normal(size=half), rng.normal(size=n - half) + 50]),
        "heavy tails": rng.standard_cauchy(size=n),
        "skewed": rng.exponential(size=n) ** 2,
        "outliers": np.concatenate([[-1e4, 1e4], rng.normal(size=n - 2)]),
        "one outlier": np.concatenate([np.zeros(n - 1), [1.0]]),
        "constant": np.full(n, 2.0),
    }
    return np.stack(list(rows.values())).astype(np.float32), list(rows)


OPERATORS = {
    "sort": lambda x, **how: sj.sort(x, **how),
    "rank": lambda x, **how: sj.rank(x, axis=-1, **how) / x.shape[-1],
    **{f"top_k {k}": lambda x, k=k, **how: sj.top_k(x, k, **how)[0] for k in (1, 2, 32, N // 2, N - 1, N)},
    "argtop_k": lambda x, **how: sj.argtop_k(x, 5, **how),
    "argsort": lambda x, **how: sj.argsort(x, **how),
    "max": lambda x, **how: sj.max(x, axis=-1, **how),
    "min": lambda x, **how: sj.min(x, axis=-1, **how),
    "argmax": lambda x, **how: sj.argmax(x, axis=-1, **how),
    "quantiles": lambda x, **how: sj.quantile(x, jnp.asarray([0.0, 0.3, 1.0]), axis=-1, **how).T,
    "median": lambda x, **how: sj.median(x, axis=-1, **how),
    **{f"mask {k:g}": lambda x, k=k, **how: sj.top_k_mask(x, k, **how) for k in (0, 1, N / 7.3, N - 0.5, N)},
    "payload": lambda x, **how: sj.sort((x, jnp.stack([jnp.cos(x), x / 1e4], -1)), **how)[1],
}
_SEVEN = {"sort", "rank", "top_k 2", "top_k 150", "quantiles", "mask 41.0959", "payload"}
QUICK = {
    0.1: _SEVEN,
    0.5: _SEVEN,
    10.0: _SEVEN,
    0.05: {"rank", "top_k 150"},
    0.03: {"sort", "top_k 2", "quantiles", "mask 41.0959"},
}
"""Softness -> the operators of each landing."""


def gradient_and_value(operator, implementation):
    """(x, softness) -> the gradient of a weighted sum of the operator's value, and the value."""

    def loss(x, softness):
        y = operator(x, method="ot", softness=softness, implementation=implementation)
        weights = np.random.default_rng(1).normal(size=(1, *y.shape[1:]))
        return jnp.sum(y * jnp.asarray(weights, y.dtype)), y

    return jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)  # softness is to be known


@pytest.mark.parametrize(
    ("softness", "name"),
    [pytest.param(t, name, marks=cases.slow_unless(name in quick)) for t, quick in QUICK.items() for name in OPERATORS],
)
def test_parity(name, softness):
    """Values within 2e-5 of the row's spread, gradients within 2e-4 of their largest entry, of rows of every kind."""
    x, names = kinds(ENOUGH.get(softness, N))
    found = []
    for dtype, implementation in ((np.float64, "dense"), (np.float32, "xla")):
        with x64():
            both = gradient_and_value(OPERATORS[name], implementation)(jnp.asarray(x, dtype), softness)
            found.append([np.asarray(a, np.float64).reshape(len(x), -1) for a in both])
    (gradient, value), (own_gradient, own_value) = found
    of_values = name.startswith(("sort", "top_k", "max", "min", "quantiles", "median"))
    spread = np.maximum(np.ptp(x.astype(float), axis=1), 1e-3) if of_values else np.ones(len(x))
    for row, off in zip(names, np.abs(value - own_value).max(axis=1) / spread, strict=True):
        assert off < 2e-5, row
    largest = np.maximum(np.abs(gradient).max(axis=1), 1e-5)
    for row, off in zip(names, np.abs(gradient - own_gradient).max(axis=1) / largest, strict=True):
        assert off < 2e-4, row


def test_the_path():
    """A known softness runs on points, without a sort, or on keys; of another the program holds both and a branch."""
    x = jnp.zeros((2, N))
    for operator in (sj.sort, lambda x, **how: sj.top_k(x, 8, **how)[0], lambda x, **how: sj.top_k_mask(x, 8, **how)):
        gradient = lambda x, softness, operator=operator: jax.grad(
            lambda x: jnp.sum(operator(x, method="ot", softness=softness))
        )(x)
        texts = [
            jax.jit(functools.partial(gradient, softness=softness)).lower(jnp.zeros((2, n))).as_text()
            for softness, n in (*ENOUGH.items(), (0.029, N))
        ]
        assert ["stablehlo.sort" in text for text in texts] == [False, False, False, True]
        branches = [text.count("stablehlo.case") for text in texts]
        for run, softness in ((gradient, jnp.float32(0.1)), (jax.vmap(gradient), jnp.full(2, 0.1))):
            text = jax.jit(run).lower(x, softness).as_text()
            assert "stablehlo.sort" in text and text.count("stablehlo.case") > branches[0] >= branches[-1]
    for softness, points_of_keys in ((0.1, 48), (0.05, 96), (0.03, 160)):
        keys = jnp.asarray(kinds(ENOUGH[softness])[0])
        info = sj.soft_permutation(keys, method="ot", softness=softness)[-32:].solver_info()
        assert (info.points == points_of_keys).all()
        assert (info.iterations < 20).all() and (info.marginal_error < 1e-2).all()
    assert (sj.soft_permutation(keys, method="ot", softness=0.02).solver_info().points == 0).all()


@jax.jit
def report(x, softness):
    """Of rows as they are."""
    return sj.soft_permutation(x, method="ot", softness=softness, standardize=False)[-32:].solver_info()


def test_the_program_looks():
    """Where softness or range is known as it runs alone: the range of every row decides, of each in its own units."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 1000)), jnp.float32)
    x = x.at[:, 0].set(0.0).at[:, 1].set(1.0)
    for scale, shift in ((1, 0), (1e-20, 0), (1e12, 0), (300, 4e3)):
        for softness, points_of_keys in ((0.03, 160), (5.0, 160), (0.029, 0)):
            assert (report(scale * x + shift, scale * softness).points == points_of_keys).all()
    assert (report(x[:, :600], 0.05).points == 96).all() and (report(x[:, :N], 0.05).points == 0).all()
    assert (report(x[:, :N], 0.1).points == 48).all() and (report(x[:, :200], 0.1).points == 0).all()
    assert (report(x, jnp.asarray([1.0, 0.01, 1.0])).points == 0).all()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=cases.slow_unless(name in ("top_k 32", "rank"))) for name in OPERATORS],
)
def test_parity_where_the_program_looks(name):
    """Of keys as they are, some far from 0, on points: values, and gradients by keys and softness."""
    x, names = kinds(N)
    spread = np.maximum(np.ptp(x.astype(float), axis=1), 1e-3)
    operator = functools.partial(OPERATORS[name], method="ot", standardize=False)

    def loss(x, softness, implementation):
        y = operator(x, softness=softness, implementation=implementation)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(1, *y.shape[1:])), y.dtype)
        return jnp.sum(y * weights), y

    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    found = []
    for dtype, implementation in ((np.float64, "dense"), (np.float32, "xla")):
        with x64():
            (by_keys, by_softness), value = run(jnp.asarray(x, dtype), jnp.asarray(0.2 * spread, dtype), implementation)
            found.append([np.asarray(a, np.float64).reshape(len(x), -1) for a in (value, by_keys, by_softness)])
    of_values = name.startswith(("sort", "top_k", "max", "min", "quantiles", "median"))
    units = spread if of_values else np.ones(len(x))
    for i, row in enumerate(names):
        (want, slope, steep), (own, own_slope, own_steep) = ([a[i] for a in both] for both in found)
        assert np.abs(own - want).max() < 2e-5 * units[i], row
        assert np.abs(own_slope - slope).max() < 2e-4 * max(np.abs(slope).max(), 1e-5), row
        assert np.abs(own_steep - steep).max() < 1e-3 * max(np.abs(steep).max(), 0.1), row


@pytest.mark.parametrize("name", ["sort", "mask 41.0959"])
def test_keys_themselves_where_the_program_looks(name):
    """A softness too small for points, traced and known: the same, with the derivative by it."""
    x = jnp.asarray(kinds(N)[0][:6])

    def both(softness):
        loss = lambda x, s: jnp.sum(jnp.sin(OPERATORS[name](x, method="ot", softness=s)))
        return jax.value_and_grad(loss)(x, softness)

    known, looking = both(0.01), jax.jit(both)(jnp.float32(0.01))
    np.testing.assert_allclose(looking[0], known[0], rtol=1e-5)
    np.testing.assert_allclose(looking[1], known[1], rtol=0, atol=2e-3 * np.abs(known[1]).max())


@pytest.mark.parametrize("softness", [pytest.param(t, marks=cases.slow_unless(t == 0.1)) for t in ENOUGH])
def test_two_clusters(softness):
    """At the ends of a line's whole range, whose many anchors are points, too: these erred by 6e-5 of the spread."""
    n = ENOUGH[softness]
    x = (np.random.default_rng(0).random((2, n)) < [[0.3], [0.5]]).astype(np.float32)
    for k in (n // 2, 2 * n // 3, n):
        with x64():
            how = {"method": "ot", "softness": softness, "standardize": False}
            exact = sj.top_k(jnp.asarray(x, float), k, implementation="dense", **how)[0]
            np.testing.assert_allclose(sj.top_k(jnp.asarray(x), k, **how)[0], exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("softness", "points_of_keys"), [(0.1, 48), (0.01, 0)])
def test_masks_of_narrow_rows(softness, points_of_keys):
    """Of keys as they are: their unit does not matter on points, and by the keys not from a softness of 1e-6 on."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, N)), jnp.float32)
    mask = jax.jit(lambda x, softness: sj.top_k_mask(x, 8, softness=softness, standardize=False))
    assert (report(x, softness).points == points_of_keys).all()
    for scale in (2.0**-13, 2.0**40) if softness == 0.01 else (2.0**-100, 2.0**40):
        np.testing.assert_allclose(mask(scale * x, scale * softness), mask(x, softness), rtol=0, atol=2e-6)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("spread", [0.0, 1e-5])
def test_second_derivatives_of_narrow_rows(standardize, spread):
    """In float32 and float64."""

    def product(dtype):
        rng = np.random.default_rng(0)
        x, direction, weights = (rng.normal(size=size).astype(np.float32) for size in (N, N, 8))
        operator = lambda x: sj.top_k(x, 8, method="ot", standardize=standardize)[0]
        gradient = jax.grad(lambda x: jnp.sum(jnp.asarray(weights, dtype) * jnp.sin(3 * operator(x))))
        given = [jnp.asarray(a, dtype) for a in (0.3 + np.float32(spread) * x * (not standardize), direction)]
        return jax.jit(lambda x, u: jax.jvp(gradient, (x,), (u,))[1])(*given)

    with x64():
        want, own = product(np.float64), product(np.float32)
    np.testing.assert_allclose(own, want, rtol=0, atol=0.02 * np.abs(want).max())


def test_no_rows():
    """An empty batch, of a softness known and not."""
    x = jnp.zeros((0, N))
    for operator in (sj.sort, sj.top_k_mask, lambda x, **how: sj.top_k(x, 3, **how)[0]):
        given = (x, 2) if operator is sj.top_k_mask else (x,)
        for softness in (0.1, jnp.float32(0.1)):
            run = jax.jit(lambda *given, s, operator=operator: operator(*given, softness=s, method="ot"))
            assert run(*given, s=softness).shape[0] == operator(*given, softness=0.1, method="ot").shape[0] == 0
    assert sj.top_k(jnp.zeros((0, 1024)), 2)[0].shape == (0, 2)


@pytest.mark.parametrize("name", ["sort", "top_k 32", "rank"])
def test_a_small_softness_takes_keys_as_they_are(name):
    """At 0.003, which would take 1,600 points, keys with a gap are right."""
    n, softness = 260, 0.003
    x = jnp.asarray(kinds(n)[0][4:5])
    assert (sj.soft_permutation(x, method="ot", softness=softness).solver_info().points == 0).all()
    with x64():
        exact = OPERATORS[name](x.astype(np.float64), method="ot", softness=softness, implementation="dense")
    spread = 1.0 if name == "rank" else float(np.ptp(x))
    off = np.abs(np.asarray(OPERATORS[name](x, method="ot", softness=softness), np.float64) - np.asarray(exact))
    assert off.max() < 1e-3 * spread


def test_transposed_products():
    """P.T @ y and y @ P of a run of ranks, and of all."""
    x, y = jnp.asarray(kinds(N)[0]), np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    p = sj.soft_permutation(x, method="ot")
    for some in (p, p[-40:], p[100:120], p[:200]):
        rows = len(some)
        np.testing.assert_allclose(some.T @ y[:rows], some.todense().swapaxes(1, 2) @ y[:rows], rtol=0, atol=5e-5)
        np.testing.assert_allclose(some @ y, some.todense() @ y, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["sort", "rank", "top_k 2", "mask 41.0959", "quantiles"])
def test_second_derivatives(name):
    """Forward over reverse and reverse over reverse, in float64."""
    with x64():
        rng = np.random.default_rng(0)
        x, direction = (jnp.asarray(rng.normal(size=(1, N))) for _ in range(2))

        def products(implementation):
            operator = functools.partial(OPERATORS[name], method="ot", implementation=implementation)
            gradient = jax.grad(lambda x: jnp.sum(jnp.sin(operator(x))))
            forward = jax.jvp(gradient, (x,), (direction,))[1]
            return forward, jax.grad(lambda x: jnp.vdot(gradient(x), direction))(x)

        (want, _), own = jax.jit(products, static_argnums=0)("dense"), jax.jit(products, static_argnums=0)("xla")
        for found in own:
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-8 * np.abs(want).max())


def test_rows_are_their_own():
    """A row with a NaN is NaN, those beside it are what they are alone and mapped."""
    x = kinds(N)[0]
    spoiled = np.concatenate([x, np.full((1, N), np.nan, np.float32)])
    spoiled[-1, 1:] = 0
    for operator in (sj.sort, lambda x, **how: sj.top_k_mask(x, 7, **how), lambda x, **how: sj.top_k(x, 3, **how)[0]):
        run = jax.jit(functools.partial(operator, method="ot"))
        out = run(jnp.asarray(spoiled))
        assert np.isnan(out[-1]).all()
        mapped = jax.jit(jax.vmap(functools.partial(operator, method="ot")))(jnp.asarray(x))
        for row, *others in zip(run(jnp.asarray(x)), out[:-1], mapped, x, strict=True):
            atol = 2e-6 * max(1, np.ptp(others.pop()))
            for other in others:
                np.testing.assert_allclose(other, row, rtol=0, atol=atol)


@pytest.mark.parametrize("scale", [1e30, 1e35, 1e37])
def test_large_numbers(scale):
    """Sums over many large keys or payloads do not overflow: values scale, and gradients stay, of keys up to 1e30."""
    x = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    for operator in (
        lambda x: sj.sort(x, method="ot"),
        lambda x: sj.max(x, method="ot"),
        lambda x: sj.sort((x / jnp.max(jnp.abs(x)), x), method="ot")[1],
    ):
        both = jax.jit(jax.value_and_grad(lambda x, operator=operator: jnp.ravel(operator(x))[0]))
        (value, gradient), (large, own) = both(jnp.asarray(x)), both(jnp.asarray(x * np.float32(scale)))
        np.testing.assert_allclose(large / scale, value, rtol=1e-4)
        if scale <= 1e30:
            np.testing.assert_allclose(own, gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())


@pytest.mark.parametrize(("softness", "name"), [(0.1, "sort"), (0.1, "median"), (0.05, "top_k 32"), (0.03, "sort")])
def test_continuous_where_it_begins(name, softness):
    """On both sides of the least softness of each grade, of which the last is the least that runs on points."""
    x = jnp.asarray(kinds(ENOUGH[softness])[0])
    below, above = (OPERATORS[name](x, method="ot", softness=s) for s in (softness * (1 - 2e-6), softness))
    spread = np.maximum(np.ptp(np.asarray(x), axis=1), 1)
    assert (np.abs(above - below).reshape(len(x), -1).max(axis=1) < 2e-5 * spread).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_of_16_bits(dtype):
    """Computed in float32 and rounded once."""
    x = jnp.asarray(kinds(N)[0][:4], dtype)
    for operator in (sj.sort, lambda x, **how: sj.top_k(x, 9, **how)[0]):
        out = operator(x, method="ot")
        assert out.dtype == dtype
        wide = operator(x.astype(jnp.float32), method="ot").astype(dtype)
        np.testing.assert_array_equal(out.astype(np.float32), wide.astype(np.float32))


@pytest.mark.parametrize(
    ("generations", "softness"),
    [(3, 0.1), *(pytest.param(60, softness, marks=pytest.mark.slow) for softness in ENOUGH)],
)
def test_the_worst_keys(generations, softness):
    """Whatever atoms a search finds: within a panel a plan grows e^6-fold, and rounding where most keys are with it."""
    n, candidates, rng = ENOUGH[softness], 64 if softness == 0.1 else 24, np.random.default_rng(generations)
    operators = [lambda x, **how: sj.sort(x, **how)]
    for k in (1, 16):
        operators.append(lambda x, k=k, **how: sj.top_k(x, k, **how)[0])
    operators.append(lambda x, **how: sj.median(x, axis=-1, **how)[:, None])
    for operator in operators:
        exact, own = (
            jax.jit(functools.partial(operator, method="ot", softness=softness, implementation=i))
            for i in ("dense", "xla")
        )

        def errors(genes, exact=exact, own=own):
            places, sizes = np.cumsum(np.exp(genes[:, :6]), axis=1), np.exp(genes[:, 6:])
            ends = np.cumsum(sizes, axis=1) / np.sum(sizes, axis=1, keepdims=True)
            at = np.array([np.searchsorted(row, (np.arange(n) + 0.5) / n) for row in ends])
            x = np.take_along_axis(places, np.minimum(at, 5), axis=1)
            deviation = np.maximum(x.std(axis=1, keepdims=True), 1e-9)
            x = ((x - x.mean(axis=1, keepdims=True)) / deviation).astype(np.float32)  # no digits are lost to its place
            spread = np.ptp(x.astype(float), axis=1)
            with x64():
                off = np.abs(np.asarray(exact(jnp.asarray(x, np.float64))) - np.asarray(own(jnp.asarray(x))))
            return off.max(axis=1) / np.maximum(spread, 1e-6)

        genes = rng.normal(size=(candidates, 12)) * 2
        for _ in range(generations):
            off = errors(genes)
            assert (off < 5e-5).all()
            best = genes[np.argsort(off)[-candidates // 4 :]]
            genes = np.concatenate([best] * 4) + rng.normal(size=genes.shape) * rng.exponential(0.5, (candidates, 1))


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 300, 5_000])
def test_weights_of_points(panels, n):
    """Weights are sums over keys of Lagrange polynomials, whichever way; interpolation is the transpose."""
    rng = np.random.default_rng(n)
    with x64():
        t, v = jnp.asarray(rng.uniform(-1, 1, (2, n))), jnp.asarray(rng.normal(size=(2, 3, n)))
        t = t.at[:, 0].set(1.0)
        values = jnp.asarray(rng.normal(size=(2, 3, len(points(panels)))))
        basis = np.stack([lagrange(row, panels) for row in np.asarray(t)])
        for target in (None, Target("cpu")):
            (w,), (y,) = (
                operator(panels).run_on(target, t, a) for operator, a in ((NodeWeights, v), (Interpolated, values))
            )
            np.testing.assert_allclose(w, np.einsum("bdn,bmn->bdm", v, basis), rtol=0, atol=1e-12 * n)
            np.testing.assert_allclose(y, np.einsum("bdm,bmn->bdn", values, basis), rtol=0, atol=1e-12)
        np.testing.assert_allclose(jnp.vdot(w, values), jnp.vdot(v, y), rtol=1e-9)
    places = points(panels)
    np.testing.assert_allclose(lagrange(places, panels), np.eye(len(places)), atol=1e-13)
