"""Tile sizes and thresholds are data: what files say is what is compiled, and a wrong entry is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import suite

from softjax._methods import METHODS
from softjax._modes import MODES
from softjax_pallas import _kernel, named, tuning
from softjax_pallas.ops import ot as transport
from softjax_pallas.ops import pairwise
from softjax_pallas.ops.ot.limits import MAX_ANCHORS
from softjax_pallas.tile_engine import portable
from softjax_pallas.tile_engine import tiles as _tiles

N = 70


def of(**families):
    """A table with tiles of the interpreted portable kernels."""
    return tuning.table({"tiles": {"pallas_interpret": families}})


def apply(mode="c1"):
    """Value and gradient of NeuralSort's band, whose bounds follow from the tiles, as one jitted function."""

    def loss(x, tau):
        y = named(METHODS["neuralsort"], "pallas_interpret").apply(x, range(N), None, tau, MODES[mode])
        return jnp.sum(jnp.sin(3 * y))

    return jax.jit(jax.value_and_grad(loss))


def test_the_default_has_every_tile():
    """Of every implementation, up to the most anchors that its transport kernels hold."""
    stored = tuning.load(tuning.FOLDER / "default.json")
    assert not stored.measured and stored.tiles.keys() == set(_kernel.IMPLEMENTATIONS)
    for implementation, families in stored.tiles.items():
        assert {"rows", "columns", "transport"} == families.keys()
        # Mosaic GPU's programs for more anchors have the height of a tensor core's operation.
        held = MAX_ANCHORS[implementation] if implementation in _kernel.PORTABLE else transport.limits.FEW
        assert max(entry.anchors for entry in families["transport"]) >= held


def test_an_override_is_what_compiles(monkeypatch):
    """The same jitted function, called before, within and after, runs other tiles and gives equal results."""
    seen = []
    monkeypatch.setattr(portable, "Shape", lambda *a: seen.append(a[2]) or Shape(*a))
    run, x, tau = apply(), jnp.asarray(suite.keys(1, N), jnp.float32), jnp.full((1,), 0.4, jnp.float32)

    def tiles():
        seen.clear()
        y = jax.block_until_ready(run(x, tau))
        return {(tile.rows, tile.columns) for tile in seen}, y

    before, first = tiles()
    with tuning.override(of(rows={"rows": 8, "columns": 16}, columns={"rows": 16, "columns": 8})):
        within, second = tiles()
        assert pairwise.tiles("apply", "pallas_interpret") == {
            "rows": 8,
            "columns": 16,
            "rows by columns": 16,
            "columns by columns": 8,
        }
    assert before == {(32, 64)} and within == {(8, 16), (16, 8)} and tiles()[0] == before
    unit = suite.rounding("neuralsort", np.asarray(x))  # its logits are sums over a block of rows, which tiles decide
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=unit * np.abs(a).max())


Shape = portable.Shape


@pytest.mark.slow
@pytest.mark.parametrize(("method", "op"), [("softsort", "rows"), ("neuralsort", "rank"), ("neuralsort", "apply")])
@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_larger_tiles_of_mosaic_gpu(method, op, mode):
    """Of a warpgroup's 64 rows several, on rows that they do not divide."""
    families = {name: {"rows": 128, "columns": 64} for name in ("rows", "columns")}
    backend = type("Interpreted", (suite.Pairwise,), {"implementation": "pallas_interpret_gpu"})()
    with tuning.override(tuning.table({"tiles": {"pallas_interpret_gpu": families}})):
        backend.check(method, op, mode, (1, 201))


def test_an_override_of_transport():
    """The result does not depend on it, and the size is that asked for."""
    x, tau = jnp.asarray(suite.keys(1, N), jnp.float32), jnp.full((1,), 0.2, jnp.float32)

    def top(x, tau):
        return named(METHODS["ot"], "pallas_interpret").apply(jax.nn.sigmoid(x), range(N - 2, N), None, tau, smooth)

    smooth = MODES["smooth"]
    plain = jax.jit(top)(x, tau)
    with tuning.override(of(transport=[{"anchors": 128, "keys": 32}])):
        assert transport.tiles("apply", "pallas_interpret", x, range(N - 2, N), None)["keys"] == 32
        np.testing.assert_allclose(jax.jit(top)(x, tau), plain, rtol=1e-5, atol=1e-5)


def test_a_devices_file_comes_first(monkeypatch, tmp_path):
    """For what it holds, on such a device; the default serves the rest."""
    entry = {"ops": ["mask"], "least_keys": 7, "least_batch": 3, "most_anchors": 2}
    tiles = {"pallas_mosaic_gpu": {"rows": {"rows": 128, "columns": 32}}}
    data = {"measured": True, "kernels": {"ot": {"cuda": entry}}, "tiles": tiles}
    default = (tuning.FOLDER / "default.json").read_text(encoding="utf-8")
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    (tmp_path / "default.json").write_text(default, encoding="utf-8")
    tuning.file_of("A GPU").write_text(json.dumps(data), encoding="utf-8")
    assert (tmp_path / "A_GPU.json").exists()
    tuning._stored.cache_clear()
    try:
        assert tuning.rule("ot", "cuda", "A GPU").measured and tuning.rule("ot", "cuda", "A GPU").least_keys == 7
        assert not tuning.rule("ot", "tpu", "A GPU").measured and not tuning.rule("ot", "cuda", "B").measured
        monkeypatch.setattr(tuning, "_local_kind", lambda implementation: "A GPU")
        assert tuning.tile("pallas_mosaic_gpu", "rows").rows == 128
        assert tuning.tile("pallas_mosaic_gpu", "columns").rows == 64
        assert tuning.tile("pallas_mosaic_tpu", "rows").rows == 128
    finally:
        tuning._stored.cache_clear()


def test_this_machines_kind_is_no_gpus():
    """The default device is a CPU here: kernels of other platforms have the default tiles."""
    assert all(tuning._local_kind(implementation) is None for implementation in _kernel.IMPLEMENTATIONS)


@pytest.mark.parametrize(
    ("implementation", "family", "entry", "told"),
    [
        ("pallas_mosaic_gpu", "rows", {"rows": 32, "columns": 64}, "`rows` .=32. must be a positive multiple of 64"),
        ("pallas_mosaic_tpu", "columns", {"rows": 8, "columns": 64}, "`columns` .=64. must be a positive multiple"),
        ("pallas_mosaic_tpu", "transport", [{"anchors": 8, "keys": 100}], "`keys` .=100."),
        ("pallas_interpret", "tiles", {"rows": 8, "columns": 16}, "'tiles', not one of rows, columns"),
        ("pallas_nothing", "rows", {"rows": 8, "columns": 16}, "no kernel implementation"),
    ],
)
def test_a_wrong_entry_is_named(implementation, family, entry, told):
    """By implementation, family, field and value."""
    with pytest.raises(ValueError, match=told):
        tuning.table({"tiles": {implementation: {family: entry}}})


@pytest.mark.parametrize(("rows", "columns", "cut"), [(70, 129, (64, 128)), (64, 65, (64, 64)), (300, 300, (128, 256))])
def test_tiles_of_mosaic_gpu_are_no_larger_than_the_matrix(rows, columns, cut):
    """Its loads have no masks."""
    tile = _tiles.fit("pallas_mosaic_gpu", _kernel.Tile(128, 256), rows, columns)
    assert (tile.rows, tile.columns) == cut
