"""No races: every kernel, two programs at a time, under a detector that a planted race sets off."""

import importlib

import jax
import jax.numpy as jnp
import pytest
import suite

from softjax._modes import MODES
from softjax_pallas import pairwise

IMPLEMENTATION = "pallas_interpret_races"


def races_found(function, *arguments) -> bool:
    """Run, and ask the detector."""
    from jax.experimental.pallas import tpu as pltpu

    interpreter = importlib.import_module("jax._src.pallas.mosaic.interpret.interpret_pallas_call")
    pltpu.reset_tpu_interpret_mode_state()
    jax.block_until_ready(jax.jit(function)(*arguments))
    return interpreter.races.races_found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize(("order", "op"), [(o, f) for o in suite.ORDER_NAMES for f in ("rows", "apply", "rank")])
def test_kernels_have_no_races(order, op, mode):
    """Value and gradient of every form, over several blocks with a ragged end."""
    n = 20
    forms, ranks = pairwise.forms(IMPLEMENTATION)[order], range(n)
    x = jnp.asarray(suite.keys(1, n), jnp.float32)
    tau = jnp.asarray(suite.softness(1), jnp.float32)

    def loss(x, tau):
        more = {"rows": (ranks,), "apply": (ranks, None), "rank": ()}[op]
        return jnp.sum(jnp.sin(getattr(forms, op)(x, *more, tau, MODES[mode])))

    assert not races_found(jax.grad(loss, (0, 1)), x, tau)


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
            **portable_options(IMPLEMENTATION, 1),
        )(x)

    with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
        races_found(racy, jnp.ones((16, 128)))
