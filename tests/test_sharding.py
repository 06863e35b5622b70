"""Rows that are sharded over devices stay there: four virtual devices, in a process of their own."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import softjax as sj
from softjax_pallas._kernel import OLDEST_JAX, jax_version

HERE = Path(__file__).parent
PLAIN = [
    "sort softsort smooth None",
    "payload softsort c1 None",
    "top_k softsort smooth None",
    "ranking softsort c2 None",
    "mask softsort c1 None",
    "sort neuralsort smooth None",
    "top_20 neuralsort c1 None",
    "quantile neuralsort smooth None",
    "median softsort smooth None",
    "top_k ot smooth None",
    "max_of_512 ot smooth None",
    "median ot c1 None",
    "argsort ot c1 None",
    "transpose softsort smooth None",
    "transpose softsort hard None",
    "sort lapsum smooth None",
    "ranking lapsum smooth None",
    "ranking fast_soft_sort c0 None",
    "sort fast_soft_sort c0 None",
    "mask lapsum smooth None",
]
KERNELS = [
    "argsort softsort smooth pallas_interpret",
    "argsort softsort c1 pallas_interpret",
    "max neuralsort smooth pallas_interpret",
    "top_k ot smooth pallas_interpret",
    "mask ot c1 pallas_interpret",
]
OLD = jax_version() < OLDEST_JAX


kernels_run = pytest.mark.skipif(OLD, reason="kernels need JAX >= 0.11")


@pytest.mark.parametrize(
    "names",
    [
        PLAIN[::3],  # every method
        pytest.param(PLAIN[1::3] + PLAIN[2::3], marks=pytest.mark.slow),
        pytest.param(KERNELS[::3], marks=kernels_run),
        pytest.param(KERNELS, marks=[kernels_run, pytest.mark.slow]),
    ],
)
def test_sharded_rows_stay_where_they_are(names):
    """No collective moves rows, on automatic or explicit meshes; results are sharded as the input."""
    command = [sys.executable, "-W", "ignore", str(HERE / "sharded.py"), *names]
    run = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert [line["case"] for line in lines] == names
    for line in lines:
        assert not any(line["collectives"].values()), line
        assert line["rows"] == [2] and line["explicit"] == 0, line
        assert max(line["error"], line["mapped"]) < 2e-5, line


def lines_of(*arguments):
    """What `sharded.py` prints."""
    command = [sys.executable, "-W", "ignore", str(HERE / "sharded.py"), *arguments]
    run = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def test_batch_axes_stay_where_they_are():
    """Either of two batch axes sharded, or both, the softened axis last or between them: no row moves."""
    lines = lines_of("--batch")
    assert len(lines) == 16
    for line in lines:
        assert not any(line["collectives"].values()) and line["placed"] and line["error"] < 2e-5, line


def test_vmap_over_a_sharded_axis():
    """On a mesh of JAX's default kind."""
    names = ["sort softsort smooth", "ranking neuralsort c0", "mask ot c1", "transpose softsort smooth"]
    names += ["median neuralsort smooth", "quantile ot smooth", "standardised softsort c0", "take softsort smooth"]
    names += ["payload of all softsort hard", "payload of all_st softsort smooth", "transpose softsort hard"]
    lines = lines_of("--vmap", *names)
    assert [line["case"] for line in lines] == names
    for line in lines:
        assert line["placed"] and line["error"] < 2e-5, line


SPREAD = {
    "Auto": ["ot top_k", "ot max", "ot mask", "ot quantile", "ot sort", "ot rank"]
    + ["softsort top_k", "softsort max", "softsort mask", "softsort bottom"],
    "Explicit": ["ot sort", "ot mask", "softsort top_k"],
    "Manual": ["ot top_k", "ot rank"],
    "Eager": ["ot top_k", "softsort mask"],
}


@pytest.mark.parametrize("kind", SPREAD)
def test_devices_that_share_the_softened_axis(kind):
    """No key moves, forward or backward, and results along the axis are shared as the keys are."""
    lines = lines_of("--spread", kind, *SPREAD[kind])
    assert [line["case"] for line in lines] == SPREAD[kind]
    for line in lines:
        assert line["gathers"] == 0 and line["nan"] and line["error"] < 5e-6, line
        # Up to 4,096 ranks are columns of a constant, which a partitioner keeps whole.
        assert all(line["along"]) or (line["case"] == "ot sort" and kind == "Auto"), line


def test_what_cannot_share_the_axis_gathers_it():
    """Also on a mesh with explicit axes, where JAX's own sort raises."""
    for line in lines_of("--spread", "Explicit", "neuralsort median", "ot payload"):
        assert line["nan"] and line["error"] < 5e-6, line


def test_two_processes_share_the_softened_axis():
    """Each holds half of every row."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-W", "ignore", str(HERE / "sharded.py"), "--process"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": HERE.parent}
    both = [subprocess.Popen([*command, str(i), port], **pipe) for i in range(2)]
    for one in both:
        out, error = one.communicate(timeout=300)
        assert one.returncode == 0, error[-2000:]
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        assert len(lines) == 3
        for line in lines:
            assert line["devices"] == 2 and line["error"] < 1e-3, line


def test_an_eager_call_without_the_mesh():
    """Rows on four devices against a number, outside `jax.set_mesh`."""
    command = [sys.executable, "-W", "ignore", str(HERE / "sharded.py"), "--eager"]
    run = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout) == {"rows": 2, "error": 0.0}


@pytest.mark.parametrize("compare", [sj.greater, sj.less_equal, sj.equal, sj.isclose])
@pytest.mark.parametrize("other", [1.0, np.linspace(-1, 1, 4, dtype=np.float32)], ids=["scalar", "row"])
@pytest.mark.parametrize("axes", [(AxisType.Explicit,), (AxisType.Explicit, AxisType.Auto)], ids=["explicit", "mixed"])
def test_comparisons_broadcast_on_explicit_axes(compare, other, axes):
    """As JAX's own do: what is broadcast against sharded rows is sharded as they are."""
    x = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)
    both = jax.value_and_grad(lambda x: (lambda y: (jnp.sum(y), y))(compare(x, other)), has_aux=True)
    (_, want), want_gradient = both(x)
    rows = PartitionSpec("rows", None)
    mesh = jax.make_mesh((1,) * len(axes), ("rows", "more")[: len(axes)], axis_types=axes)
    with jax.set_mesh(mesh):
        (_, have), gradient = both(jax.device_put(x, NamedSharding(mesh, rows)))
    assert jax.typeof(have).sharding.spec == jax.typeof(gradient).sharding.spec == rows
    np.testing.assert_array_equal(have, want)
    np.testing.assert_array_equal(gradient, want_gradient)


@pytest.mark.parametrize("name", ["relu", "round", "abs"])
def test_a_softness_for_every_row_on_explicit_axes(name):
    """It need not be sharded as the rows are."""
    x, softness = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4), np.array([[0.1], [0.3]], np.float32)
    both = jax.value_and_grad(lambda x, s: jnp.sum(getattr(sj, name)(x, softness=s)), (0, 1))
    want, want_gradients = both(x, softness)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        have, gradients = both(jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows", None))), softness)
    np.testing.assert_allclose(have, want, rtol=1e-6)
    for gradient, wanted in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6)
