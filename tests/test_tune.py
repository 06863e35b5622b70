"""`perf/tune.py`: the whole path on a CPU with tiny sizes, and what it concludes from measured ratios."""

import json
import math
from dataclasses import replace

import jax
import pytest
import tune
from shapes import Case

from softjax_pallas import tuning
from softjax_pallas._kernel import OLDEST_JAX, jax_version
from softjax_pallas.tuning import Tile

needs_kernels = pytest.mark.skipif(jax_version() < OLDEST_JAX, reason=f"kernels need JAX >= 0.11, {jax.__version__}")


@pytest.fixture
def unoptimised():
    """Every candidate is a program of its own that runs a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@needs_kernels
def test_a_run_writes_a_file_that_loads(tmp_path, unoptimised, monkeypatch, capsys):
    """Tiles of two families and every rule, of tiny sizes; a second run keeps what it does not measure."""
    monkeypatch.setattr(tune, "PAIRWISE", [Case("argsort", "softsort", (2, 40))])
    monkeypatch.setattr(tune, "SIDES", (32,))
    for method, (case, axes) in tune.AXES.items():
        ends = {"least_keys": [40], "least_batch": [2]} | ({"most_anchors": [2]} if "most_anchors" in axes else {})
        monkeypatch.setitem(tune.AXES, method, (replace(case, shape=(2, 40), k=case.k and 1), ends))
    path = tmp_path / "tuned.json"
    how = ["--implementation", "pallas_interpret", "--output", str(path), "--seconds", "0"]
    assert tune.main([*how, "rows", "thresholds"]) == 0
    first, printed = tuning.load(path), capsys.readouterr().out
    rows = first.tiles["pallas_interpret"]["rows"]
    assert rows in (Tile(32, 64), Tile(32, 32)) and not first.measured
    assert all(f"  {tile}: ['" in printed for tile in (Tile(32, 64), Tile(32, 32)))
    assert "0 of 2 refused" in printed and "inf of xla" not in printed
    assert all(first.kernels[method]["cpu"].least_keys == 40 for method in tune.AXES)
    assert tune.main([*how, "columns"]) == 0
    second = tuning.load(path)
    assert second.tiles["pallas_interpret"].keys() == {"rows", "columns"}
    assert second.tiles["pallas_interpret"]["rows"] == rows and second.kernels == first.kernels
    assert json.loads(path.read_text(encoding="utf-8"))["versions"]["jax"] == jax.__version__
    with tuning.override(second):
        assert tuning.tile("pallas_interpret", "rows") == rows


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
    sweep = tune.Sweep("pallas_interpret", "rows", (Case("argsort", "softsort", (1, 20)),), (Tile(8, 16),))
    honest = Case.result_and_gradient
    wrong = lambda case: honest(case if case.implementation == "xla" else replace(case, softness=0.2))
    monkeypatch.setattr(Case, "result_and_gradient", wrong)
    best, told = tune.race(sweep, 0.0)
    assert best is None and all("differs by" in reason for reason in told.values())
    monkeypatch.setattr(tune, "compiled_beside", lambda programs: {key: ZeroDivisionError() for key, _ in programs})
    best, told = tune.race(sweep, 0.0)
    assert best is None and "ZeroDivisionError" in told[Tile(8, 16)]


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
    assert tune.least([3, 2, 1], ratios[::-1]) == at_most


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (lambda case: 0.5, {"ops": [*tune.OPS], "least_keys": 128, "least_batch": 1, "most_anchors": 128}),
        (
            lambda case: 0.5 + (case.k > 16),
            {"ops": [*tune.OPS], "least_keys": 128, "least_batch": 1, "most_anchors": 16},
        ),
        (lambda case: math.inf, {"ops": [], "least_keys": 8192, "least_batch": 4096, "most_anchors": 2}),
    ],
)
def test_a_rule_follows_from_ratios(ratio, expected):
    """Where a kernel is never faster no form is chosen, and the ends are those that were tried."""
    assert tune.rule("ot", "pallas_interpret", lambda cases: {case: ratio(case) for case in cases}) == expected


@pytest.mark.parametrize("implementation", ["pallas_mosaic_gpu", "pallas_mosaic_tpu"])
def test_every_family_has_candidates(implementation):
    """Within what compilers take; of transport for each number of anchors that the default tells apart."""
    found = list(tune.sweeps(implementation, tuning.FAMILIES))
    assert {sweep.family for sweep in found} == set(tuning.FAMILIES)
    for sweep in found:
        assert len(sweep.candidates) >= 3
        assert tuning.limit(implementation, sweep.family, sweep.current()) is None
