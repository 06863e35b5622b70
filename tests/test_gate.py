"""The regression gate: passes what has not changed, and fails with a table of what grew, in programs and in kernels."""

import dataclasses
import json
import re
from itertools import product

import figures
import gate
import jax
import pytest
from bands import Band
from gate import Baseline
from shapes import GATE, Case

from softjax import _methods

CASE = Case("max", "softsort", (2, 64))
FAST = Case("sort", "softsort", (2, 256), "c1")
"""A case whose dense form is another program; of CASE there is one."""

GPU = {"target": "h200", "implementation": "pallas_mosaic_gpu", "kernel": "sort", "compiler": "ptxas 1", "temp": 0}
TPU = {"target": "v5e", "implementation": "pallas_mosaic_tpu", "kernel": "sort", "compiler": "libtpu 1", "temp": 0}
ROWS = [
    GPU | {"registers": [64, 128], "spills": 0, "fingerprint": "a1"},
    TPU | {"fingerprint": "b2", "schedules": [{"inner bundles": 200, "bundles": 400, "vector spills": 0}]},
]


@pytest.fixture
def baseline(tmp_path):
    """A baseline of the one case, made from the code as it is."""
    path = tmp_path / "baseline.json"
    assert run(path, "--update") == 0
    return path


@pytest.fixture
def kernels(tmp_path):
    """The gate's exit status on rows, against a baseline made of ROWS."""

    def status(rows, *options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return gate.main(["--rows", str(path), "--baseline", str(tmp_path / "baseline.json"), *options])

    assert status(ROWS, "--update") == 0
    return status


@pytest.fixture
def plant(monkeypatch):
    """Plants the regression: SoftSort's definition, n x n numbers, runs where its fast form is asked for."""

    def dense_under_the_fast_name():
        method = _methods.METHODS["softsort"]
        monkeypatch.setitem(_methods.METHODS, "softsort", dataclasses.replace(method, xla=method.dense))
        jax.clear_caches()

    yield dense_under_the_fast_name
    jax.clear_caches()


def run(path, *options, bands=(), cases=(CASE,)):
    """The gate's exit status."""
    return gate.main([*options, "--baseline", str(path)], cases, bands)


def changed(place, **found):
    """ROWS with something else in one of them."""
    return [row | (found if number == place else {}) for number, row in enumerate(ROWS)]


# --- programs ------------------------------------------------------------------------------------------


def test_unchanged_code_passes(baseline, capsys):
    assert run(baseline, "--strict") == 0
    assert "1 cases are as the baseline says.\nThe gate is passed." in capsys.readouterr().out


def test_planted_regression_fails(baseline, plant, capsys):
    """The table names the case, the figures that grew, and by how much."""
    assert run(baseline, "--update", cases=[FAST]) == 0
    before = Baseline(baseline, "").read()[figures.compiler()][FAST.key]
    plant()
    assert run(baseline, cases=[FAST]) == 1
    printed = capsys.readouterr().out
    table = printed[printed.index("WORSE than the baseline:") : printed.index("The gate FAILS.")]
    after = figures.of_case(FAST)
    for which, name in product(("forward", "gradient"), ("temporary bytes", "flops", "bytes accessed")):
        base, now = before[which][name], after[which][name]
        row = rf"^{FAST.key} +{which} +{name} +{base:,} +{now:,} +x {now / base:.2f}$"
        assert now > 1.5 * base and re.search(row, table, re.MULTILINE), (which, name, base, now)


def test_planted_regression_leaves_its_band(baseline, plant, capsys):
    """The dense form in place of the fast one takes as long as the dense form, and the gate fails of it alone."""
    band = Band(Case("sort", "softsort", (1, 1_024), "c1"), "forward", "dense", 0.5)
    assert run(baseline, bands=[band]) == 0
    assert "EXCEEDED" not in capsys.readouterr().out
    plant()
    assert run(baseline, bands=[band]) == 1
    printed = capsys.readouterr().out
    assert "EXCEEDED" in printed and "WORSE" not in printed


@pytest.mark.parametrize(("name", "base", "allowed"), [("flops", 1_000, 20), ("sorts", 3, 0), ("fusions", 7, 1)])
def test_tolerance(name, base, allowed):
    """What is allowed passes, one more does not, in either direction."""

    def beyond(now):
        one = lambda number: {"case": {"forward": {name: number}}}
        return len(gate.changes(one(base), one(now)))

    assert [beyond(base + d) for d in (-allowed - 1, -allowed, 0, allowed, allowed + 1)] == [1, 0, 0, 0, 1]


def test_two_runs_agree():
    """In every figure, whatever was compiled before it."""
    cases = [CASE, Case("mask", "ot", (2, 64))]
    first = figures.measure(cases)
    jax.clear_caches()
    assert figures.measure(cases[::-1]) == first


def test_a_case_without_a_baseline_fails(baseline, capsys):
    """In both directions: the list of cases and the baseline correspond; of those that a word asks for."""
    other = Case("mask", "ot", (2, 64))
    assert run(baseline, cases=[CASE, other]) == 1
    assert f"`make baseline` brings them together: {other.key}\n" in capsys.readouterr().out
    assert run(baseline, "softsort", cases=[CASE, other]) == 0
    assert run(baseline, cases=[other]) == 1
    assert CASE.key in capsys.readouterr().out
    assert run(baseline, "mask", "--update", cases=[CASE, other]) == 0
    assert list(Baseline(baseline, "").read()[figures.compiler()]) == [CASE.key, other.key]


# --- both ----------------------------------------------------------------------------------------------


def test_an_improvement_of_programs_is_taken_over_on_purpose(baseline, capsys):
    """It is shown and does not fail, except where the gate is strict."""
    found = Baseline(baseline, "").read()
    for which in found[figures.compiler()][CASE.key].values():
        which.update({name: 2 * number for name, number in which.items()})
    Baseline(baseline, "").update(found)
    assert run(baseline) == 0
    printed = capsys.readouterr().out
    assert "Better than the baseline:" in printed and "x 0.50" in printed and "`make baseline`" in printed
    assert run(baseline, "--strict") == 1
    assert run(baseline, "--update") == 0 and run(baseline, "--strict") == 0


def test_an_improvement_of_kernels_is_taken_over_on_purpose(kernels, capsys):
    better = changed(0, registers=[40, 100])
    assert kernels(better) == 0
    assert "`make baseline-aot`, and commit perf/baseline.json" in capsys.readouterr().out
    assert kernels(better, "--strict") == 1
    assert kernels(better, "--update") == 0 and kernels(better, "--strict") == 0


@pytest.mark.parametrize("what", ["programs", "kernels"])
def test_another_compiler_is_not_compared(what, request, monkeypatch, tmp_path, capsys):
    """It says so and passes, except where the gate is strict; its own baseline stands beside the others'."""
    if what == "kernels":
        status = request.getfixturevalue("kernels")
        again = lambda *options: status([row | {"compiler": "another"} for row in ROWS], *options)
    else:
        path = request.getfixturevalue("baseline")
        monkeypatch.setattr(figures, "compiler", lambda: "another")
        again = lambda *options: run(path, *options)
    first = list(Baseline(tmp_path / "baseline.json", "").read())
    assert again() == 0
    assert f"No baseline for another; there is one for {'; '.join(first)}. Not compared." in capsys.readouterr().out
    assert again("--strict") == 1
    assert again("--update") == 0 and again("--strict") == 0
    assert sorted(Baseline(tmp_path / "baseline.json", "").read()) == sorted([*first, "another"])


# --- kernels -------------------------------------------------------------------------------------------


def test_the_same_kernels_pass(kernels, capsys):
    assert kernels(ROWS, "--strict") == 0
    assert "The gate of the kernels is passed." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "worse", "told"),
    [
        (0, {"registers": [64, 160]}, "kernel 1 registers 128 160 x 1.25"),
        (0, {"registers": [72, 128]}, "kernel 2 registers 64 72 x 1.12"),
        (0, {"spills": 4}, "program spill bytes 0 4 new"),
        (0, {"temp": 4_096}, "program temporary bytes 0 4,096 new"),
        (0, {"registers": [64, 64, 128]}, "program kernels 2 3 x 1.50"),
        (1, {"schedules": [{"inner bundles": 230, "bundles": 400}]}, "kernel 1 inner bundles 200 230 x 1.15"),
        (1, {"schedules": [{"inner bundles": 200, "vector spills": 9}]}, "kernel 1 vector spills 0 9 new"),
    ],
)
def test_a_planted_worsening_fails(kernels, capsys, place, worse, told):
    """The table names the kernel, the figure that grew, and by how much."""
    assert kernels(changed(place, **worse)) == 1
    printed = capsys.readouterr().out
    table = " ".join(printed[printed.index("WORSE than the baseline:") :].split())
    assert told in table and table.endswith("The gate of the kernels FAILS.")


def test_a_kernel_that_is_gone_fails(kernels, capsys):
    """Unless only a part was asked for; another target is none of its business."""
    more = [*ROWS, ROWS[0] | {"kernel": "rank"}]
    assert kernels(more, "--update") == 0
    assert kernels(ROWS) == 1 and kernels(ROWS, "sort") == 0
    assert "`make baseline-aot` brings them together: h200 pallas_mosaic_gpu rank\n" in capsys.readouterr().out
    assert kernels([more[0], more[2]]) == 0


def test_a_new_kernel_is_told(kernels, capsys):
    """It passes, except where the gate is strict."""
    more = [*ROWS, ROWS[0] | {"kernel": "rank"}]
    assert kernels(more) == 0
    assert "Not in the baseline: h200 pallas_mosaic_gpu rank." in capsys.readouterr().out
    assert kernels(more, "--strict") == 1


def test_a_kernel_that_does_not_compile_fails(kernels, capsys):
    failed = {"target": "h200", "implementation": "pallas_mosaic_gpu", "kernel": "sort", "error": "no such layout"}
    assert kernels([failed, ROWS[1]]) == 1
    assert "h200 pallas_mosaic_gpu sort: no such layout" in capsys.readouterr().out


def test_a_known_program_has_the_figures_of_the_baseline(kernels, tmp_path, capsys):
    """Its fingerprint is written with them; without them it is an error."""
    written = json.loads((tmp_path / gate.FINGERPRINTS).read_text("utf-8"))
    assert written == {
        "ptxas 1": {"h200 pallas_mosaic_gpu sort": "a1"},
        "libtpu 1": {"v5e pallas_mosaic_tpu sort": "b2"},
    }
    known = GPU | {"fingerprint": "a1", "known": True}
    assert kernels([known, ROWS[1]], "--strict") == 0
    assert kernels([known | {"kernel": "rank"}, ROWS[1]]) == 1
    assert "h200 pallas_mosaic_gpu rank: has a fingerprint, but no figures in baseline.json" in capsys.readouterr().out


# --- what is committed ---------------------------------------------------------------------------------


def test_committed_baseline_has_every_case():
    """For each compiler that it was made with, and every figure of each."""
    found = Baseline(gate.BASELINE, "").read()
    for cases in found.values():
        assert list(cases) == [case.key for case in GATE]
        assert all({"forward", "gradient"} <= passes.keys() for passes in cases.values())
    assert found


@pytest.mark.parametrize("path", [gate.BASELINE, gate.KERNELS], ids=lambda path: path.name)
def test_committed_figures_have_tolerances(path):
    """And no kernel spills."""
    found = Baseline(path, "").read()
    parts = [part for cases in found.values() for parts in cases.values() for part in parts.values()]
    assert parts and {name for part in parts for name in part} <= gate.TOLERANCE.keys()
    assert not any(part.get("spill bytes") for part in parts)
