"""`perf/tune.py`: the whole path on a CPU with tiny sizes, and what it concludes from measured ratios."""

import json
import math

import jax
import pytest
import sweeps
import tune

from softjax_pallas import tuning
from softjax_pallas._kernel import OLDEST_JAX, Tile, jax_version

needs_kernels = pytest.mark.skipif(jax_version() < OLDEST_JAX, reason=f"kernels need JAX >= 0.11, {jax.__version__}")


@pytest.fixture
def unoptimised():
    """Every candidate is a program of its own that runs a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@needs_kernels
def test_a_dry_run_writes_a_file_that_loads(tmp_path, unoptimised, capsys):
    """Tiles of two families and every rule; a second run keeps what it does not measure."""
    path, log = tmp_path / "tuned.json", tmp_path / "log.json"
    how = ["--dry-run", "--implementation", "pallas_interpret", "--output", str(path), "--seconds", "0"]
    assert tune.main([*how, "rows", "thresholds", "--log", str(log)]) == 0
    first = tuning.load(path)
    rows = first.tiles["pallas_interpret"]["rows"]
    assert rows in (Tile(32, 64), Tile(16, 32)) and not first.measured
    tried = json.loads(log.read_text(encoding="utf-8"))["pallas_interpret"]
    assert [line["tile"]["rows"] for line in tried["rows"]] == [32, 16]
    assert all("refused" not in line and line["seconds"] for line in tried["rows"])
    for order, keys in (("ot", 80), ("softsort", 40), ("neuralsort", 40)):
        assert all(math.isfinite(line["ratio"]) for line in tried[f"thresholds {order}"])
        assert first.kernels[order]["cpu"].least_keys == keys
    assert tune.main([*how, "columns"]) == 0
    second = tuning.load(path)
    assert second.tiles["pallas_interpret"].keys() == {"rows", "columns"}
    assert second.tiles["pallas_interpret"]["rows"] == rows and second.kernels == first.kernels
    assert json.loads(path.read_text(encoding="utf-8"))["versions"]["jax"] == jax.__version__
    with tuning.override(second):
        assert tuning.tile("pallas_interpret", "rows") == rows
    assert "0 of 2 refused" in capsys.readouterr().out


def test_there_is_nothing_to_tune_on_a_cpu(capsys):
    """It says so, and fails."""
    assert tune.main([]) == 1
    assert tune.main(["--implementation", "pallas_mosaic_tpu"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "Nothing to tune: no kernel runs on cpu (cpu).",
        "Nothing to tune: pallas_mosaic_tpu runs not on cpu (cpu).",
    ]


@needs_kernels
def test_a_candidate_whose_result_is_wrong_is_refused(monkeypatch, unoptimised):
    """And so is one that does not compile; with none left there is no best."""
    call = sweeps.Call("argsort", "softsort", 1, 20)
    sweep = sweeps.Sweep("pallas_interpret", "rows", (call,), (Tile(8, 16),))
    honest = sweeps.Call.function
    wrong = lambda self, name: honest(self if name == "xla" else sweeps.replace(self, softness=0.2), name)
    monkeypatch.setattr(sweeps.Call, "function", wrong)
    best, told = sweeps.race(sweep, 0.0)
    assert best is None and all("differs by" in line["refused"] for line in told)
    monkeypatch.setattr(sweeps, "compiled_beside", lambda programs: {key: ZeroDivisionError() for key, _ in programs})
    best, told = sweeps.race(sweep, 0.0)
    assert best is None and "ZeroDivisionError" in told[0]["refused"]


@pytest.mark.parametrize(
    ("ratios", "at_least", "at_most"),
    [
        ([2.0, 0.9, 0.8], 2, None),
        ([0.9, 1.1, 0.8], 3, 1),
        ([0.9, 0.8, 0.7], 1, 3),
        ([0.9, 0.8, 1.0], None, 2),
        ([math.inf, math.nan, 0.5], 3, None),
    ],
)
def test_thresholds_follow_from_ratios(ratios, at_least, at_most):
    """A kernel is chosen where it is faster there and at everything beyond that was tried."""
    assert tune.least([1, 2, 3], ratios) == at_least
    assert tune.most([1, 2, 3], ratios) == at_most


@pytest.mark.parametrize("implementation", ["pallas_mosaic_gpu", "pallas_mosaic_tpu"])
def test_every_family_has_candidates(implementation):
    """Within what compilers take; of transport for each number of anchors that the default tells apart."""
    found = sweeps.sweeps(implementation, tuning.FAMILIES, tiny=False)
    assert {sweep.family for sweep in found} == set(tuning.FAMILIES)
    for sweep in found:
        assert len(sweep.candidates) >= 3
        assert tuning.limit(implementation, sweep.family, sweep.current()) is None
