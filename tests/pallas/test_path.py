"""The path taken: each implementation's kernels are in the lowered text, under their names."""

import re
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, use_abstract_mesh

from softjax._methods import METHODS
from softjax._modes import MODES
from softjax_pallas import named
from softjax_pallas._kernel import compute_capability

try:
    from jax.sharding import AbstractDevice
except ImportError:  # an older JAX, for which these tests are skipped
    AbstractDevice = None

TARGETS = {
    "pallas_mosaic_gpu": ("cuda", "mosaic_gpu"),
    "pallas_mosaic_tpu": ("tpu", "tpu_custom_call"),
}
DEVICES = {"pallas_mosaic_gpu": "NVIDIA H200"}
"""A GPU that each implementation runs on, for programs that are lowered without one."""
TILED = ("rows", "back_rows", "back_columns")
NAMES = {
    ("softsort", "rows", "smooth"): [f"softsort_{name}" for name in TILED],
    ("neuralsort", "rows", "smooth"): [f"neuralsort_{name}" for name in TILED],
    ("neuralsort", "apply", "smooth"): ["neuralsort_apply", "neuralsort_back_rows", "neuralsort_back_columns"],
    ("neuralsort", "rank", "smooth"): [
        *("neuralsort_apply", "neuralsort_column_sums"),
        *("neuralsort_back_rows_of_rank", "neuralsort_back_columns_of_rank"),
    ],
}


def described(kind):
    """A context in which programs for CUDA are lowered for such a device."""
    if kind is None:
        return nullcontext()
    device = AbstractDevice(device_kind=kind, num_cores=108, platform="gpu")
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def lowered(forms, op, platform, mode="smooth", kind=None):
    """Text of value and gradient, lowered for a platform, and a kind of device."""
    x, tau = jax.ShapeDtypeStruct((2, 128), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)

    def loss(x, tau):
        more = {"rows": (range(128),), "apply": (range(128), None), "rank": ()}[op]
        return jnp.sum(jnp.sin(getattr(forms, op)(x, *more, tau, MODES[mode])))

    with described(kind):
        return jax.jit(jax.grad(loss, (0, 1))).trace(x, tau).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("implementation", TARGETS)
@pytest.mark.parametrize(("method", "op", "mode"), NAMES)
def test_kernels_are_in_the_lowered_text(implementation, method, op, mode):
    """Forward and backward kernels, by name, and the call that runs them."""
    platform, target = TARGETS[implementation]
    text = lowered(named(METHODS[method], implementation), op, platform, mode, DEVICES.get(implementation))
    assert target in text
    for name in NAMES[method, op, mode]:
        assert f"softjax_{name}" in text


@pytest.mark.parametrize("kind", ["NVIDIA A100-SXM4-80GB", "NVIDIA L4", "NVIDIA A10G"])
def test_a_device_that_cannot_run_a_named_kernel_is_told(kind):
    """A compiler would abort: Mosaic GPU is for compute capability 9.0 and newer."""
    with pytest.raises(NotImplementedError, match=f"pallas_mosaic_gpu.*{kind} has 8.x.*implementation='xla' can"):
        lowered(named(METHODS["softsort"], "pallas_mosaic_gpu"), "rows", "cuda", kind=kind)


@pytest.mark.parametrize(
    ("kind", "major"),
    [("NVIDIA H100 80GB HBM3", 9), ("NVIDIA GH200 480GB", 9), ("NVIDIA B200", 10), ("NVIDIA A100-PCIE-40GB", 8)]
    + [("NVIDIA A10G", 8), ("NVIDIA L40S", 8), ("Tesla V100-SXM2-16GB", None), (None, None)],
)
def test_capability_of_a_device_that_is_only_described(kind, major):
    """By its name; one that is not known is given no kernel."""
    assert compute_capability(SimpleNamespace(device_kind=kind)) == major
    assert compute_capability(SimpleNamespace(device_kind=kind, compute_capability="7.5")) == 7


def test_the_xla_form_has_none():
    """The check above can fail."""
    text = lowered(METHODS["softsort"].plain, "apply", "cuda")
    assert "softjax_" not in text and "triton" not in text and "mosaic" not in text


def moves(implementation, method, op, mode):
    """Which gathers and scatters are in the text of value and gradient, with two channels of payload for `apply`."""
    number = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    form, n = getattr(named(METHODS[method], implementation), op), 300
    arrays = number((2, n)), number((2,)), *([number((2, n, 2))] if op == "apply" else [])

    def loss(x, tau, *payload):
        more = () if op == "rank" else (range(n), *payload)
        return jnp.sum(jnp.sin(form(x, *more, tau, MODES[mode])))

    platform = TARGETS[implementation][0]
    traced = jax.jit(jax.grad(loss, tuple(range(len(arrays))))).trace(*arrays)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return set(re.findall(r"stablehlo\.(gather|scatter)", text))


@pytest.mark.parametrize("mode", ["smooth", "c0"])
@pytest.mark.parametrize("op", ["rows", "apply", "rank"])
def test_sorts_move_everything_on_a_tpu(op, mode):
    """XLA pads a last axis to 128 there: gathered channels, or indices, would take 512 bytes an element."""
    assert moves("pallas_mosaic_tpu", "neuralsort", op, mode) == set()


def test_elsewhere_gathers_do():
    """The check above can fail."""
    with described(DEVICES["pallas_mosaic_gpu"]):
        assert moves("pallas_mosaic_gpu", "neuralsort", "apply", "c0") == {"gather", "scatter"}
