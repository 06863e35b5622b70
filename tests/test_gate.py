"""The regression gate: passes what has not changed, and fails with a table of what grew, in programs and in kernels."""

import json
import re
from itertools import product

import figures
import gate
import jax
import pytest
import shapes
from figures import Band
from gate import Baseline
from shapes import GATE, Case

import softjax as sj

CASE, OTHER = Case("max", "softsort", (2, 64)), Case("mask", "ot", (2, 64))
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
    """Do rows pass the gate, against a baseline made of ROWS?"""

    def passes(rows, *options, asked=lambda name: True):
        parsed = gate.parser("").parse_args([*options, "--baseline", str(tmp_path / "baseline.json")])
        return gate.judge_kernels([dict(row) for row in rows], parsed, asked)

    assert passes(ROWS, "--update")
    return passes


@pytest.fixture
def plant(monkeypatch):
    """Plants the regression: SoftSort's definition, n x n numbers, runs where its fast form is asked for."""

    def dense_under_the_fast_name():
        dense = lambda x, k, **how: sj.sort(x, **how | {"implementation": "dense"})
        monkeypatch.setitem(shapes.SOFT, "sort", dense)
        jax.clear_caches()

    yield dense_under_the_fast_name
    jax.clear_caches()


def run(path, *options, bands=(), cases=(CASE,)):
    """The gate's exit status."""
    return gate.main([*options, "--baseline", str(path)], cases, bands)


# --- the rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "base", "allowed"), [("flops", 1_000, 20), ("sorts", 3, 0), ("fusions", 7, 1)])
def test_tolerance(name, base, allowed):
    """What is allowed passes, one more does not, in either direction."""

    def beyond(now):
        one = lambda number: {"case": {"forward": {name: number}}}
        return len(gate.changes(one(base), one(now)))

    assert [beyond(base + d) for d in (-allowed - 1, -allowed, 0, allowed, allowed + 1)] == [1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("now", "passes", "told"),
    [
        # Whether it passes where what is new does, where it does not, and where the gate is strict.
        ({"a": 4}, (True, True, True), "1 cases are as the baseline says."),
        ({"a": 5}, (False, False, False), "WORSE than the baseline:"),
        ({"a": 2}, (True, True, False), "Take an improvement over on purpose: `make it`, and commit perf/b.json."),
        ({"a": 4, "c": 0}, (True, False, False), "Not in the baseline: c. `make it` brings them together."),
        ({}, (False, False, False), "In the baseline alone: a. `make it` brings them together."),
    ],
)
def test_what_passes(now, passes, told, tmp_path, capsys):
    """A worse figure and a case that is gone never do."""
    of = lambda numbers: {case: {"forward": {"sorts": number}} for case, number in numbers.items()}
    file = Baseline(tmp_path / "b.json", "make it")
    file.update({"compiler": of({"a": 4})})
    for expected, strict, new in zip(passes, (False, False, True), (True, False, True), strict=True):
        assert file.judge("compiler", lambda: of(now), strict, new) == expected
        assert told in capsys.readouterr().out
    file.update({"compiler": of(now)})
    assert file.judge("compiler", lambda: of(now), strict=True, new=False)


def test_another_compiler_is_not_compared(kernels, tmp_path, capsys):
    """It says so and passes, except where the gate is strict; its own baseline stands beside the others'."""
    other = [row | {"compiler": "another"} for row in ROWS]
    assert kernels(other)
    assert "No baseline for another; there is one for libtpu 1; ptxas 1. Not compared." in capsys.readouterr().out
    assert not kernels(other, "--strict")
    assert kernels(other, "--update") and kernels(other, "--strict")
    assert list(Baseline(tmp_path / "baseline.json").read()) == ["another", "libtpu 1", "ptxas 1"]


@pytest.mark.parametrize("path", [gate.BASELINE, gate.KERNELS], ids=lambda path: path.name)
def test_committed_baselines(path):
    """Every figure has a tolerance, no kernel spills, and every case is there in order, for each compiler."""
    found = Baseline(path).read()
    parts = [part for cases in found.values() for parts in cases.values() for part in parts.values()]
    assert parts and {name for part in parts for name in part} <= gate.TOLERANCE.keys()
    assert not any(part.get("spill bytes") for part in parts)
    for cases in found.values() if path == gate.BASELINE else ():
        assert list(cases) == [case.key for case in GATE]
        assert all({"forward", "gradient"} <= passes.keys() for passes in cases.values())


# --- programs ------------------------------------------------------------------------------------------


def test_planted_regression_fails(baseline, plant, capsys):
    """Unchanged code passes; then the table names the case, the figures that grew, and by how much."""
    assert run(baseline, "--update", cases=[FAST]) == 0
    assert run(baseline, "--strict", cases=[FAST]) == 0
    assert "1 cases are as the baseline says.\nThe gate is passed." in capsys.readouterr().out
    before = Baseline(baseline).read()[figures.compiler()][FAST.key]
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


def test_two_runs_agree():
    """In every figure, whatever was compiled before it."""
    first = figures.measure([CASE, OTHER])
    jax.clear_caches()
    assert figures.measure([OTHER, CASE]) == first


def test_cases_and_baseline_correspond(baseline):
    """In both directions, of those that a word asks for; the baseline keeps the others."""
    assert run(baseline, cases=[CASE, OTHER]) == 1 and run(baseline, cases=[OTHER]) == 1
    assert run(baseline, "softsort", cases=[CASE, OTHER]) == 0
    assert run(baseline, "mask", "--update", cases=[CASE, OTHER]) == 0
    assert list(Baseline(baseline).read()[figures.compiler()]) == [CASE.key, OTHER.key]


# --- kernels -------------------------------------------------------------------------------------------


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
    """The same kernels pass; then the table names the kernel, the figure that grew, and by how much."""
    assert kernels(ROWS, "--strict")
    assert not kernels([row | (worse if number == place else {}) for number, row in enumerate(ROWS)])
    printed = capsys.readouterr().out
    assert told in " ".join(printed[printed.index("WORSE than the baseline:") :].split())


def test_only_what_was_compiled_is_judged(kernels):
    """A kernel that is gone fails, unless a part was asked for; a new one passes; another target does not matter."""
    more = [*ROWS, ROWS[0] | {"kernel": "rank"}]
    assert kernels(more) and not kernels(more, "--strict")
    assert kernels(more, "--update")
    assert not kernels(ROWS) and kernels(ROWS, asked=lambda name: "sort" in name)
    assert kernels([more[0], more[2]])


def test_a_kernel_that_does_not_compile_fails(kernels, capsys):
    failed = {"target": "h200", "implementation": "pallas_mosaic_gpu", "kernel": "sort", "error": "no such layout"}
    assert not kernels([failed, ROWS[1]])
    assert "h200 pallas_mosaic_gpu sort: no such layout" in capsys.readouterr().out


def test_a_known_program_has_the_figures_of_the_baseline(kernels, tmp_path, capsys):
    """Its fingerprint is written with them; without them it is an error."""
    written = json.loads((tmp_path / gate.FINGERPRINTS).read_text("utf-8"))
    name, other = "h200 pallas_mosaic_gpu sort", "v5e pallas_mosaic_tpu sort"
    assert written == {"ptxas 1": {name: "a1"}, "libtpu 1": {other: "b2"}}
    known = GPU | {"fingerprint": "a1", "known": True}
    assert kernels([known, ROWS[1]], "--strict")
    assert not kernels([known | {"kernel": "rank"}, ROWS[1]])
    assert "h200 pallas_mosaic_gpu rank: has a fingerprint, but no figures in baseline.json" in capsys.readouterr().out
