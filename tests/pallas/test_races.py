"""No races: every kernel, two programs at a time, under detectors that a planted race sets off."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import suite

from softjax._methods import METHODS
from softjax._modes import MODES
from softjax_pallas import named

IMPLEMENTATION = "pallas_interpret_races"


def races_found(function, *arguments) -> bool:
    """Run, and ask the detector."""
    from jax.experimental.pallas import tpu as pltpu

    interpreter = importlib.import_module("jax._src.pallas.mosaic.interpret.interpret_pallas_call")
    pltpu.reset_tpu_interpret_mode_state()
    jax.block_until_ready(jax.jit(function)(*arguments))
    return interpreter.races.races_found


def slopes(forms, op, ranks, mode, payload=False):
    """A form's gradient with respect to keys and softness, and a payload of two columns where there is one."""

    def loss(x, tau, *v):
        more = () if op == "rank" else (ranks,) if op == "rows" else (ranks, *(v or (None,)))
        return jnp.sum(jnp.sin(getattr(forms, op)(x, *more, tau, MODES[mode])))

    return jax.grad(loss, (0, 1, 2) if payload else (0, 1))


def drawn(batch, n, payload=False):
    """What such a gradient is taken of."""
    arrays = suite.keys(batch, n), suite.softness(batch), suite.drawn(batch, n)[2]
    return [jnp.asarray(a, jnp.float32) for a in arrays[: 3 if payload else 2]]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize(("method", "op"), suite.FORMS)
def test_kernels_have_no_races(method, op, mode):
    """Value and gradient of every form, over several blocks with a ragged end."""
    forms = named(METHODS[method], IMPLEMENTATION)
    assert not races_found(slopes(forms, op, range(20), mode), *drawn(1, 20))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize("ranks", [range(17, 20), range(20)])
def test_kernels_with_a_payload_have_no_races(ranks, mode):
    """Two columns, for few rows and for all."""
    forms = named(METHODS["neuralsort"], IMPLEMENTATION)
    assert not races_found(slopes(forms, "apply", ranks, mode, payload=True), *drawn(1, 20, payload=True))


@pytest.fixture
def detecting(monkeypatch):
    """The Mosaic GPU interpreter looks for races; it raises where it finds one."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    params = partial(plgpu.InterpretGPUParams, detect_races=True, num_cores_or_threads=2)
    monkeypatch.setattr(plgpu, "InterpretGPUParams", params)
    jax.clear_caches()
    yield params
    importlib.import_module("jax._src.pallas.mosaic_gpu.interpret.gpu_callbacks").reset_gpu_interpret_mode_state()
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize(("method", "op"), suite.FORMS)
def test_mosaic_gpu_kernels_have_no_races(detecting, method, op, mode):
    """Two whole blocks. A ragged last one overlaps the one before it, and both write what lies in both."""
    forms, payload = named(METHODS[method], "pallas_interpret_gpu"), op == "apply"
    run = jax.jit(slopes(forms, op, range(128), mode, payload))
    assert all(np.isfinite(a).all() for a in jax.block_until_ready(run(*drawn(1, 128, payload))))


FEW = [(op, k, mode) for op, k in (("rows", 1), ("apply", 3), ("rows", 17), ("apply", 17)) for mode in ("smooth", "c1")]


@pytest.mark.slow
@pytest.mark.parametrize(("op", "k", "mode"), FEW)
def test_mosaic_gpu_transport_has_no_races(detecting, op, k, mode):
    """Two rows with a ragged end."""
    n = 200
    run = jax.jit(slopes(named(METHODS["ot"], "pallas_interpret_gpu"), op, range(n - k, n), mode))
    assert all(np.isfinite(a).all() for a in jax.block_until_ready(run(*drawn(2, n))))


def test_a_race_planted_on_mosaic_gpu_is_found(detecting):
    """Two programs write one array."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    def body(x_ref, y_ref):
        y_ref[...] = x_ref[...] + 1.0

    racy = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((128,), jnp.float32),
        grid=(2,),
        grid_names=("i",),
        compiler_params=plgpu.CompilerParams(),
        interpret=detecting(),
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
        jax.block_until_ready(jax.jit(racy)(jnp.ones(128)))


def test_a_planted_race_is_found():
    """Two programs add to one block."""
    from jax.experimental import pallas as pl

    from softjax_pallas._kernel import portable_options

    def body(x_ref, y_ref):
        y_ref[...] = y_ref[...] + x_ref[...]

    def racy(x):
        return pl.pallas_call(
            body,
            out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
            grid=(2, 2),
            in_specs=[pl.BlockSpec((8, 128), lambda b, i: (b, 0))],
            out_specs=pl.BlockSpec((8, 128), lambda b, i: (0, 0)),
            **portable_options(IMPLEMENTATION),
        )(x)

    with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
        races_found(racy, jnp.ones((16, 128)))
