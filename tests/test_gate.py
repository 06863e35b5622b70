"""The regression gate: passes what has not changed, and fails with a table of what grew."""

import json
import re
from itertools import count, product

import figures
import gate
import jax
import judgement
import pytest
from shapes import GATE, Case

from softjax import _methods

CASE = Case("max", "softsort", (2, 64))
FAST = Case("sort", "softsort", (2, 256), "c1")
"""A case whose dense form is another program; of CASE there is one."""


@pytest.fixture
def baseline(tmp_path):
    """A baseline of the one case, made from the code as it is."""
    path = tmp_path / "baseline.json"
    assert run(path, "--update") == 0
    return path


@pytest.fixture
def plant(monkeypatch):
    """Plants the regression: SoftSort's definition, n x n numbers, runs where its fast form is asked for."""

    def dense_under_the_fast_name():
        monkeypatch.setitem(_methods.METHODS, "softsort", _methods.METHODS["softsort"].definition)
        jax.clear_caches()

    yield dense_under_the_fast_name
    jax.clear_caches()


def run(path, *options, bands=(), cases=(CASE,)):
    """The gate's exit status."""
    return gate.main(["--baseline", str(path), *options], cases, bands)


def scale(path, factor):
    """Multiply every figure of a baseline."""
    found = judgement.Baseline(path, "").read()
    for which in found[figures.compiler()][CASE.key].values():
        which.update({name: round(factor * number) for name, number in which.items()})
    judgement.Baseline(path, "").write(found)


def test_unchanged_code_passes(baseline, capsys):
    assert run(baseline, "--strict") == 0
    assert "1 cases are as the baseline says.\nThe gate is passed." in capsys.readouterr().out


def test_planted_regression_fails(baseline, plant, capsys):
    """The table names the case, the figures that grew, and by how much."""
    assert run(baseline, "--update", cases=[FAST]) == 0
    before = judgement.Baseline(baseline, "").read()[figures.compiler()][FAST.key]
    plant()
    assert run(baseline, cases=[FAST]) == 1
    printed = capsys.readouterr().out
    table = printed[printed.index("WORSE than the baseline:") : printed.index("The gate FAILS.")]
    after = figures.of_case(FAST)
    for which, name in product(("forward", "gradient"), ("temporary bytes", "flops", "bytes accessed")):
        base, now = before[which][name], after[which][name]
        row = rf"^{FAST.key} +{which} +{name} +{base:,} +{now:,} +x {now / base:.2f}$"
        assert now > 1.5 * base and re.search(row, table, re.MULTILINE), (which, name, base, now)


def test_planted_regression_leaves_its_band(plant, capsys):
    """The dense form in place of the fast one takes as long as the dense form."""
    band = gate.Band(Case("sort", "softsort", (1, 1_024), "c1"), "forward", "dense", 0.5)
    assert gate.bands_hold([band])
    assert "EXCEEDED" not in capsys.readouterr().out
    plant()
    assert not gate.bands_hold([band])
    assert "EXCEEDED" in capsys.readouterr().out


def test_an_improvement_is_taken_over_on_purpose(baseline, capsys):
    """It is shown and does not fail, except where the gate is strict."""
    scale(baseline, 2)
    assert run(baseline) == 0
    printed = capsys.readouterr().out
    assert "Better than the baseline:" in printed and "x 0.50" in printed and "`make baseline`" in printed
    assert run(baseline, "--strict") == 1
    assert run(baseline, "--update") == 0
    assert run(baseline, "--strict") == 0


@pytest.mark.parametrize(("name", "base", "allowed"), [("flops", 1_000, 20), ("sorts", 3, 0), ("fusions", 7, 1)])
def test_tolerance(name, base, allowed):
    """What is allowed passes, one more does not, in either direction."""

    def beyond(now):
        one = lambda number: {"case": {"forward": {name: number}}}
        return len(judgement.changes(one(base), one(now)))

    assert [beyond(base + d) for d in (-allowed - 1, -allowed, 0, allowed, allowed + 1)] == [1, 0, 0, 0, 1]


def test_two_runs_agree(baseline, capsys):
    """Every figure, whatever was compiled before it."""
    cases = [CASE, Case("mask", "ot", (2, 64))]
    assert run(baseline, "--twice", cases=cases) == 0
    assert "Two runs of 2 cases agree in every figure." in capsys.readouterr().out


def test_two_runs_that_differ_are_told(baseline, monkeypatch, capsys):
    """The check above can fail."""
    numbers = count()
    monkeypatch.setattr(figures, "of_program", lambda *_: {"flops": next(numbers)})
    assert run(baseline, "--twice") == 1
    assert "Two runs differ." in capsys.readouterr().out


def test_a_case_without_a_baseline_fails(baseline, capsys):
    """In both directions: the list of cases and the baseline correspond."""
    other = Case("mask", "ot", (2, 64))
    assert run(baseline, cases=[CASE, other]) == 1
    assert f"`make baseline` brings them together: {other.key}\n" in capsys.readouterr().out
    assert run(baseline, cases=[other]) == 1
    assert CASE.key in capsys.readouterr().out


def test_another_compiler_is_not_compared(baseline, monkeypatch, capsys):
    """It says so and passes, except where the gate is strict; its own baseline stands beside the other's."""
    first = figures.compiler()
    monkeypatch.setattr(figures, "compiler", lambda: "another")
    assert run(baseline) == 0
    assert f"No baseline for another; there is one for {first}. Not compared." in capsys.readouterr().out
    assert run(baseline, "--strict") == 1
    assert run(baseline, "--update") == 0
    assert sorted(judgement.Baseline(baseline, "").read()) == sorted([first, "another"])


def test_committed_baseline_has_every_case():
    """For each compiler that it was made with, and every figure of each."""
    found = json.loads(gate.BASELINE.read_text(encoding="utf-8"))
    for cases in found.values():
        assert list(cases) == [case.key for case in GATE]
        for key, passes in cases.items():
            assert {"forward", "gradient"} <= passes.keys(), key
            assert {name for which in passes.values() for name in which} <= judgement.TOLERANCE.keys()
    assert found
