"""The path taken: each implementation's kernels are in the lowered text, under their names."""

import re
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, use_abstract_mesh

from softjax._modes import MODES
from softjax._orders import ORDERS
from softjax_pallas import pairwise

try:
    from jax.sharding import AbstractDevice
except ImportError:  # an older JAX, for which these tests are skipped
    AbstractDevice = None

TARGETS = {
    "pallas_triton": ("cuda", "__gpu$xla.gpu.triton"),
    "pallas_mosaic_gpu": ("cuda", "mosaic_gpu"),
    "pallas_mosaic_tpu": ("tpu", "tpu_custom_call"),
}
NAMES = {
    ("softsort", "rows"): ("softsort_rows", "softsort_back_rows", "softsort_back_columns"),
    ("softsort", "apply"): ("recurrence_apply", "recurrence_back"),
    ("neuralsort", "apply"): ("neuralsort_apply", "neuralsort_back_rows", "neuralsort_back_columns"),
    ("neuralsort", "rank"): ("neuralsort_column_sums", "neuralsort_back_rows_of_rank"),
}


def lowered(forms, op, platform):
    """Text of value and gradient, lowered for a platform."""
    x, tau = jax.ShapeDtypeStruct((2, 128), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)

    def loss(x, tau):
        more = {"rows": (range(128),), "apply": (range(128), None), "rank": ()}[op]
        return jnp.sum(jnp.sin(getattr(forms, op)(x, *more, tau, MODES["smooth"])))

    device = AbstractDevice(device_kind="NVIDIA A100-SXM4-80GB", num_cores=108, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)) if platform == "cuda" else nullcontext():
        return jax.jit(jax.grad(loss, (0, 1))).trace(x, tau).lower(lowering_platforms=(platform,)).as_text()


# JAX says so whenever it lowers a Triton kernel; nothing else serves compute capability 8.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("implementation", TARGETS)
@pytest.mark.parametrize(("order", "op"), NAMES)
def test_kernels_are_in_the_lowered_text(implementation, order, op):
    """Forward and backward kernels, by name, and the call that runs them."""
    platform, target = TARGETS[implementation]
    text = lowered(pairwise.forms(implementation)[order], op, platform)
    assert target in text
    for name in NAMES[order, op]:
        assert f"softjax_{name}" in text


def test_the_xla_form_has_none():
    """The check above can fail."""
    text = lowered(ORDERS["softsort"].xla, "apply", "cuda")
    assert "softjax_" not in text and "triton" not in text and "mosaic" not in text


def moves(implementation, order, op, mode):
    """Which gathers and scatters are in the text of value and gradient, with two channels of payload for `apply`."""
    number = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    form, n = getattr(pairwise.forms(implementation)[order], op), 300
    arrays = number((2, n)), number((2,)), *([number((2, n, 2))] if op == "apply" else [])

    def loss(x, tau, *payload):
        more = () if op == "rank" else (range(n), *payload)
        return jnp.sum(jnp.sin(form(x, *more, tau, MODES[mode])))

    platform = TARGETS[implementation][0]
    traced = jax.jit(jax.grad(loss, tuple(range(len(arrays))))).trace(*arrays)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return set(re.findall(r"stablehlo\.(gather|scatter)", text))


@pytest.mark.parametrize("mode", ["smooth", "c0"])
@pytest.mark.parametrize(
    ("order", "op"),
    [("softsort", "apply"), ("softsort", "rank"), *(("neuralsort", op) for op in ("rows", "apply", "rank"))],
)
def test_sorts_move_everything_on_a_tpu(order, op, mode):
    """XLA pads a last axis to 128 there: gathered channels, or indices, would take 512 bytes an element."""
    assert moves("pallas_mosaic_tpu", order, op, mode) == set()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_elsewhere_gathers_do():
    """The check above can fail."""
    device = AbstractDevice(device_kind="NVIDIA A100-SXM4-80GB", num_cores=108, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        assert moves("pallas_triton", "neuralsort", "apply", "c0") == {"gather", "scatter"}
