"""Transport to many anchors by passes over the plan: parity with float64, O(n) memory, races, the path taken."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_memory import largest
from test_path import DEVICES, TARGETS, described
from test_races import IMPLEMENTATION as RACES
from test_races import races_found
from test_transport import MOSAIC, PORTABLE, compare, evaluated, forms, keys

from softjax._methods.ot import method as ot
from softjax._modes import MODES

slow = pytest.mark.slow

PORTABLE_CASES = [
    # n, k, mode, op, payload's columns: the last holds more than a pass visits at once.
    (129, 129, "smooth", "apply", 2),
    (129, 129, "c0", "rank", 1),
    (150, 150, "c1", "apply", 12),
    (150, 150, "c2", "rank", 1),
    (150, 140, "smooth", "rows", 1),
    (257, 257, "smooth", "rank", 1),
    (257, 257, "c0", "apply", 2),
    (257, 140, "c2", "rows", 1),
    (257, 200, "c1", "rank", 1),
    (257, 130, "smooth", "apply", 17),
]


@slow
@pytest.mark.parametrize(("n", "k", "mode", "op", "d"), PORTABLE_CASES)
def test_portable_against_float64(n, k, mode, op, d):
    compare(PORTABLE, keys(3, n), k, np.array([0.1, 0.5, 1.0]), mode, op, d)


@slow
@pytest.mark.parametrize(("mode", "op"), [("smooth", "rank"), ("c1", "apply")])
def test_small_softness(mode, op):
    compare(PORTABLE, keys(2, 150), 150, np.array([0.003, 0.02]), mode, op)


@slow
@pytest.mark.parametrize(("mode", "op"), [("smooth", "apply"), ("smooth", "rank"), ("c1", "apply"), ("c2", "rank")])
def test_ties_and_a_constant_row(mode, op):
    compare(PORTABLE, keys(3, 130, ties=True), 130, np.array([0.1, 0.037, 0.1]), mode, op)


MOSAIC_CASES = [(70, 70, "smooth", "apply"), (129, 129, "c1", "rank"), (65, 50, "c2", "apply"), (129, 60, "c0", "rows")]


@slow
@pytest.mark.parametrize(("n", "k", "mode", "op"), MOSAIC_CASES)
def test_mosaic_gpu_against_float64(n, k, mode, op):
    """50 and 60 wanted ranks have fewer anchors than a tile, or an odd number."""
    compare(MOSAIC, keys(1, n), k, np.array([0.5]), mode, op, d=1)


@slow
@pytest.mark.parametrize("op", ["rank", "apply"])
def test_what_is_saved_does_not_depend_on_who_asks(op):
    """A call from no program: another trace of it may save the same arrays in another order."""
    n = 136
    more = (range(n), None) if op == "apply" else ()
    arrays = jnp.asarray(keys(2, n), jnp.float32), jnp.full(2, 0.2)

    def slope(forms):
        weighted = lambda y: jnp.vdot(y, jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))
        return jax.jit(jax.grad(lambda x, tau: weighted(getattr(forms, op)(x, *more, tau, MODES["smooth"])), (0, 1)))

    jax.clear_caches()
    for have, want in zip(slope(forms(PORTABLE))(*arrays), slope(ot.DENSE)(*arrays), strict=True):
        scale = n * cases.conditioning(arrays[0], n, 0.2, "ot") * float(jnp.max(jnp.abs(want)))
        np.testing.assert_allclose(have, want, rtol=0, atol=cases.SOLVER["float32"] * scale)


@functools.cache
def kernel_rank(implementation=PORTABLE, mode="smooth"):
    return jax.jit(lambda y, tau: forms(implementation).rank(y, tau, MODES[mode]))


def test_ranks_that_are_known_only_at_run_time():
    """Every row would have a problem of its own; the error names the remedy."""
    y, tau = jnp.asarray(keys(2, 150), jnp.float32), jnp.full(2, 0.3, jnp.float32)
    with pytest.raises(NotImplementedError, match="ranks.*known only at run time.*implementation='xla' can"):
        jax.eval_shape(lambda r: forms(PORTABLE).apply(y, r, None, tau, MODES["smooth"]), jnp.zeros(100))


@slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    """Keys and payload in half precision, sums in float32, the result in the payload's dtype."""
    n = 140
    y = jnp.asarray(keys(2, n), dtype)
    v = jnp.asarray(np.random.default_rng(1).normal(size=(2, n, 1)), dtype)
    apply = lambda form, y, v, tau: form.apply(y, range(n), v, tau, MODES["smooth"])
    got = jax.jit(functools.partial(apply, forms(PORTABLE)))(y, v, jnp.full(2, 0.1, dtype))
    with cases.x64():
        wide = (jnp.asarray(np.asarray(a, np.float64)) for a in (y, v, jnp.full(2, 0.1, dtype)))
        exact = apply(ot.DENSE, *wide)
    assert got.dtype == dtype
    scale = np.abs(exact).max()
    np.testing.assert_allclose(np.asarray(got, np.float64), exact, atol=float(jnp.finfo(dtype).eps) * scale)


@slow
def test_a_nan_stays_in_its_row():
    y = keys(3, 130).astype(np.float32)
    tau = jnp.full(3, 0.1, jnp.float32)
    clean = kernel_rank()(jnp.asarray(y), tau)
    y[1, 5] = np.nan
    ranks = np.asarray(kernel_rank()(jnp.asarray(y), tau.at[2].set(-1.0)))
    assert np.isnan(ranks[1:]).all()
    np.testing.assert_allclose(ranks[0], clean[0], atol=130 * cases.tolerance("float32", 130, 11.0, "ot"))


@slow
def test_vmap_is_the_batch():
    y, tau = jnp.asarray(keys(4, 130), jnp.float32), jnp.asarray([0.1, 0.2, 0.3, 0.4], jnp.float32)
    together = kernel_rank()(y, tau)
    apart = jax.jit(jax.vmap(kernel_rank()))(y.reshape(2, 2, 130), tau.reshape(2, 2))
    np.testing.assert_allclose(apart.reshape(4, 130), together, atol=130 * cases.tolerance("float32", 130, 11.0, "ot"))


@slow
@pytest.mark.parametrize(("n", "k", "op"), [(130, 130, "apply"), (130, 130, "rank"), (40, 5, "rows"), (40, 5, "apply")])
def test_results_do_not_depend_on_x64(n, k, op):
    """Values and gradients of float32 arrays, of many anchors and of few."""
    rng = np.random.default_rng(1)
    shape = {"rows": (2, k, n), "apply": (2, k, 1), "rank": (2, n)}[op]
    arrays = (keys(2, n), rng.normal(size=(2, n, 1)), np.array([0.1, 0.3]), rng.normal(size=shape))
    run = lambda: evaluated(PORTABLE, n, k, "smooth", op)(*(jnp.asarray(a, jnp.float32) for a in arrays))
    narrow = run()
    with cases.x64():
        wide = run()
    for mine, theirs in zip(wide, narrow, strict=True):
        assert mine.dtype == theirs.dtype == jnp.float32
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("op", ["apply", "rank"])
def test_nothing_of_n_by_n_is_named(op):
    """Of the gradient's program and its kernels: the largest array is a few numbers for each key."""
    n = 4096
    form = functools.partial(getattr(forms(PORTABLE), op))
    more = (range(n), None) if op == "apply" else ()
    slope = jax.grad(lambda x, tau: jnp.sum(jnp.sin(form(x, *more, tau, MODES["c1"]))), (0, 1))
    shapes = jax.ShapeDtypeStruct((1, n), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    assert largest(jax.make_jaxpr(slope)(*shapes).jaxpr) <= 8 * n


# --- the path taken ------------------------------------------------------------------------------------

PASSES = {
    "apply": ("norms", "collect", "centre", "couple", "pull"),
    "rank": ("norms", "collect", "centre", "couple", "distribute", "pull"),
    "rows": ("norms", "collect", "centre_of_matrix", "couple_of_matrix", "plan", "pull_of_matrix"),
}


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("implementation", TARGETS)
@pytest.mark.parametrize(("op", "x64"), [("apply", False), ("rank", True), ("rows", False)])
def test_kernels_are_in_the_lowered_text(implementation, op, x64):
    platform, target = TARGETS[implementation]
    more = {"rows": (range(200),), "apply": (range(200), None), "rank": ()}[op]
    form = getattr(forms(implementation), op)
    loss = lambda y, tau: jnp.sum(jnp.sin(form(y, *more, tau, MODES["c1"])))
    with jax.enable_x64(x64), described(DEVICES.get(implementation)):
        shapes = jax.ShapeDtypeStruct((2, 200), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
        text = jax.jit(jax.grad(loss, (0, 1))).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert target in text
    for name in PASSES[op]:
        assert f"softjax_transport_{name}" in text


# --- races ---------------------------------------------------------------------------------------------


def plan_of(implementation, mode, n=20, k=18):
    """A problem of several tiles with ragged ends, and arrays of its sizes."""
    from softjax._methods.ot import semidual_newton as _transport
    from softjax_pallas.transport import _stream

    rng = np.random.default_rng(0)
    number = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    ranks = range(n - k + 1, n)
    target = ot.targets(ranks, n, jnp.dtype(jnp.float32))
    assert target.anchors.shape == (k,)
    y = jnp.asarray(keys(1, n), jnp.float32)
    problem = _transport.Problem(y, target.anchors, target.masses, jnp.full(1, 0.3, jnp.float32))
    return _stream.Stream(implementation, MODES[mode], ranks).spec, problem, number


@slow
@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_passes_have_no_races(mode):
    """Every kernel, over several blocks with ragged ends."""
    from softjax._methods.ot import semidual_newton as _transport
    from softjax_pallas.transport._passes import Direction, passes

    spec, problem, number = plan_of(RACES, mode)
    keyed, anchored, matrix = number(1, 2, 20), number(1, 3, 18), number(1, 20, 18)

    def everything(problem):
        at = passes(spec, problem, _transport.start(problem))
        product, stored = Direction(anchored, keyed), Direction(anchored[:, :1], matrix, stored=True)
        values = at.collect(keyed), at.distribute(anchored), at.plan(anchored[:, :1], jnp.float32)
        return values, [(at.sums(g), at.pull(g)) for g in (product, stored)], at.laplacian(anchored[:, 0])

    assert not races_found(everything, problem)


def test_a_planted_race_is_found():
    """Sums over keys by programs that own keys: each adds its part to what the others write."""
    from softjax._methods.ot import semidual_newton as _transport
    from softjax_pallas.pairwise import _maths as maths
    from softjax_pallas.pairwise._operands import OWN_ROWS, Operand
    from softjax_pallas.pairwise._tile_bodies import Kernel
    from softjax_pallas.pairwise._tiled import run
    from softjax_pallas.pairwise.pallas import pl_ds
    from softjax_pallas.transport._passes import passes

    spec, problem, _ = plan_of(RACES, "smooth")

    def collect(p, pairs, degree, common, refs):
        k, (norm_ref, out_ref) = Kernel(p, pairs, degree, common, True), refs

        def visit(t, z, carry):
            weight = maths.phi(degree, z - p.down(p.rows(norm_ref, 0))) * p.down(p.rows(norm_ref, 1))
            place = slice(0, 1), pl_ds(t, weight.shape[1])
            out_ref[place] = out_ref[place] + p.sum_columns(weight)
            return carry

        k.fold(visit, jnp.int32(0))

    def racy(problem):
        at = passes(spec, problem, _transport.start(problem))
        return run(spec, collect, True, at.common, ((OWN_ROWS,), (at.norm,)), (Operand("columns", whole=True),))

    with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
        races_found(racy, problem)
