"""Which kernel a lowering holds, races between rows, and where a kernel says that it cannot run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_path import DEVICES, TARGETS, described
from test_races import IMPLEMENTATION as RACES
from test_races import races_found

from softjax._methods import METHODS
from softjax._modes import MODES
from softjax_pallas import named


@pytest.mark.parametrize("implementation", TARGETS)
@pytest.mark.parametrize("k", [1, 20])
def test_the_kernels_are_in_the_lowered_text(implementation, k):
    rows = named(METHODS["ot"], implementation).rows

    def loss(y, tau):
        return jnp.sum(rows(y, range(200 - k, 200), tau, MODES["smooth"]))

    shapes = jax.ShapeDtypeStruct((2, 200), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    platform, target = TARGETS[implementation]
    with described(DEVICES.get(implementation)):
        text = jax.jit(jax.grad(loss)).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert target in text and "transport_forward" in text and "transport_backward" in text


@pytest.mark.slow
@pytest.mark.parametrize(("op", "k"), [("rows", 1), ("apply", 5), ("rows", 20), ("apply", 20), ("mask", 0)])
@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_kernels_have_no_races(op, k, mode):
    """Value and gradient, by name; two rows, several blocks of keys with a ragged end."""
    n, form = 600, getattr(named(METHODS["ot"], RACES), op)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, n)), jnp.float32)
    more = {"rows": (range(n - k, n),), "apply": (range(n - k, n), None), "mask": (jnp.full(2, 2.5),)}[op]
    loss = lambda x, tau: jnp.sum(jnp.sin(form(x, *more, tau, MODES[mode])))
    assert not races_found(jax.grad(loss, (0, 1)), x, jnp.full(2, 0.1))


def test_races_between_rows():
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call
    from jax.experimental.pallas import tpu as pltpu

    from softjax_pallas.ops.ot import portable as pallas
    from softjax_pallas.ops.ot.spec import Operands, Spec

    y = np.random.default_rng(0).uniform(size=(2, 20)).astype(np.float32)
    spec = Spec(n=20, k=2, wanted=1, payload=0, degree=None, normalise=False)
    masses = jnp.asarray([[3.0, 17.0], [5.0, 15.0]], jnp.float32)
    anchors = jnp.asarray([[1.0, 0.0]] * 2, jnp.float32)
    at = Operands(jnp.asarray(y), None, jnp.zeros((2, 2), jnp.float32), masses, anchors, jnp.full(2, 0.1, jnp.float32))
    interpret = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
    rows, psi, sums = jax.jit(lambda at: pallas.forward(spec, "pallas_mosaic_tpu", at, interpret))(at)
    np.testing.assert_allclose(np.asarray(rows).sum(2)[:, 0], [3, 5], rtol=1e-5)
    assert not interpret_pallas_call.races.races_found
    at = at._replace(psi=psi)
    out = jax.jit(lambda at, sums, g: pallas.backward(spec, "pallas_mosaic_tpu", at, sums, g, interpret))(
        at, sums, rows
    )
    assert np.isfinite(np.asarray(out[0])).all()
    assert not interpret_pallas_call.races.races_found


def test_a_named_kernel_says_why_it_cannot_run():
    tau = jnp.full(2, 0.1, jnp.float32)
    with pytest.raises(NotImplementedError, match="pallas_mosaic_gpu.*100 keys do not fill a tile of 128"):
        named(METHODS["ot"], "pallas_mosaic_gpu").rows(jnp.ones((2, 100)), range(99, 100), tau, MODES["smooth"])
    with pytest.raises(NotImplementedError, match="rank.*500 anchors are more than the 47 that a kernel holds"):
        named(METHODS["ot"], "pallas_mosaic_gpu").rank(jnp.ones((2, 500)), tau, MODES["smooth"])


def test_supports():
    from softjax_pallas.ops.ot import supports

    assert supports("rows", "ot", jnp.float32, (4, 1000, 33, 0), "pallas_mosaic_gpu") is None
    assert "float16" in str(supports("rows", "ot", "float16", (4, 1000, 33, 0), "pallas_mosaic_tpu"))
    assert "float64" in str(supports("rows", "ot", "float64", (4, 1000, 33, 0), "pallas_mosaic_gpu"))
    assert "VMEM" in str(supports("rows", "ot", jnp.float32, (1, 1_000_000, 33, 0), "pallas_mosaic_tpu"))
    assert supports("apply", "ot", jnp.float32, (1, 1_000_000, 33, 1), "pallas_mosaic_tpu") is None
    assert "anchors" in str(supports("rank", "ot", jnp.float32, (1, 129), "pallas_mosaic_tpu"))
    assert "VMEM" in str(supports("apply", "ot", jnp.float32, (1, 600_000, 101, 8), "pallas_mosaic_tpu"))
    assert "anchors" in str(supports("apply", "ot", jnp.float32, (1, 1000, 48, 1), "pallas_mosaic_gpu"))


def test_vmap_folds_into_the_batch():
    rows = named(METHODS["ot"], "pallas_interpret").rows
    y = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 2, 20)), jnp.float32)
    tau = jnp.full(2, 0.1, jnp.float32)

    def one(y):
        return rows(y, range(18, 20), tau, MODES["smooth"])

    together = jax.jit(jax.vmap(one))(y)
    apart = jnp.stack([jax.jit(one)(row) for row in y])
    np.testing.assert_allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize("payload", [0, 1])
def test_no_vector_of_anchors_is_a_column_in_a_tpus_memory(payload):
    """XLA pads a last axis to 128 there: a column would take 512 bytes an anchor. Softness is one number a row."""
    from softjax_pallas.ops.ot import portable as pallas
    from softjax_pallas.ops.ot.spec import Operands, Spec

    batch, n, k = 3, 300, 12
    number = lambda *shape: jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    spec = Spec(n=n, k=k, wanted=k - 1, payload=payload, degree=None, normalise=True)
    at = Operands(number(n), number(payload, n) if payload else None, number(k), number(k), number(k), number())
    cotangent = number(k - 1, payload or n)
    for program in (
        jax.make_jaxpr(lambda *a: pallas.forward(spec, "pallas_mosaic_tpu", *a))(at),
        jax.make_jaxpr(lambda *a: pallas.backward(spec, "pallas_mosaic_tpu", *a))(at, number(k), cotangent),
    ):
        (call,) = [e for e in program.eqns if e.primitive.name == "pallas_call"]
        shapes = [v.aval.shape for v in (*call.invars, *call.outvars)]
        assert all(s[-1] > 1 or s == (batch, 1, 1) for s in shapes), shapes
