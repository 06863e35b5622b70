"""What the benchmarks say is right: fitted powers, what may be timed, and the page that is made of their results."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import bars
import bench
import gate
import gpu_check
import jax
import jax.numpy as jnp
import kernel_comparison
import numpy as np
import pytest
import record
import report
import runner
import shapes
import tables
import timing
from shapes import Case

from softjax_pallas._kernel import OLDEST_JAX, jax_version

PEERS = Path(record.__file__).parent / "peers"


@pytest.fixture
def compare(monkeypatch):
    """perf/peers/compare.py, which is started as a script."""
    monkeypatch.syspath_prepend(PEERS)
    spec = importlib.util.spec_from_file_location("compare", PEERS / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", shapes.SOFT)
def test_soft_operator_tends_to_its_yardstick(name):
    """At a tiny softness the soft operator gives what the hard one gives, so that "x hard" compares like with like."""
    case = Case(name, "softsort", (2, 40), softness=1e-6)
    x = case.keys()
    soft, hard = case.soft(x), case.hard(x)
    if name == "argsort":
        hard = jax.nn.one_hot(hard, x.shape[-1])
    np.testing.assert_allclose(soft, jnp.asarray(hard, x.dtype), atol=1e-5)


@pytest.mark.parametrize("cases", [shapes.STANDARD, shapes.GATE, *(cases for _, cases in shapes.SCALING.values())])
def test_every_case_is_there_once(cases):
    """A key names one case."""
    assert len({case.key for case in cases}) == len(cases)


@pytest.mark.parametrize("case", shapes.COMPILED, ids=lambda case: case.key)
def test_programs_are_as_short_as_promised(case):
    """What the gate holds programs to is no more than the goals."""
    for compiler, found in json.loads(gate.BASELINE.read_text()).items():
        most, _ = shapes.goals(case.method, case.mode)
        assert found[case.key]["gradient"]["instructions"] <= most, compiler


@pytest.mark.parametrize(("name", "most"), [("sort", 8), ("median", 17), ("rank", 8)])
def test_programs_of_a_first_call(name, most):
    """An eager call compiles a few programs of its own, not one for each step of its preparation."""
    (found,) = bench.first_call(name, 0.0, repeats=1)
    assert 1 <= found["programs"] <= most, found


def test_power():
    """The slope above the cost of a call, which hides it below."""
    sizes = [10, 100, 1_000, 10_000, 100_000]
    assert timing.power(sizes, [1e-3 + 1e-6 * n**1.5 for n in sizes]) == pytest.approx(1.5, abs=0.02)
    assert math.isnan(timing.power(sizes, [1e-3 + 1e-9 * n for n in sizes]))


def test_turns():
    """Each round calls every candidate once, after one round to warm up; a slow round's ratio is an ordinary one."""
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.interleaved(candidates, repeats=4, seconds=0.0)
    assert calls == ["a", "b"] * 4 and {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
    assert timing.ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == [2.0, 2.0, 2.0]
    assert timing.spread([1.0, 2.0, 3.0]) == pytest.approx(0.25)


def test_a_run_of_a_part_keeps_the_rest(tmp_path, monkeypatch, capsys):
    """With words the records of what they name are replaced, without any the file starts afresh; all are shown."""
    measured = iter(range(10))
    what = runner.Measurement(
        {name: Case(name, "ot", (2, 3)) for name in ("sort", "rank", "max")},
        lambda case, _: [case.about() | {"seconds": next(measured)}],
        tables.Table(["case", "seconds"], lambda records: [[r["case"], str(r["seconds"])] for r in records]),
    )
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    path = tmp_path / f"{record.machine()}.jsonl"

    def saved(*arguments):
        runner.run(what, runner.parser("").parse_args([*arguments, "--save"]))
        return {r["case"]: r["seconds"] for r in record.read(path)}

    assert saved() == {"ot sort": 0, "ot rank": 1, "ot max": 2}
    assert saved("rank", "max") == {"ot sort": 0, "ot rank": 3, "ot max": 4}
    assert capsys.readouterr().out.split()[-8:] == ["case", "seconds", "ot", "rank", "3", "ot", "max", "4"]
    assert record.read(path)[0].keys() >= {"machine", "device", "jax", "commit", "date"}
    del what.items["max"]
    assert saved() == {"ot sort": 5, "ot rank": 6}


def test_a_series_ends_where_a_call_would_take_too_long(monkeypatch):
    """By the growth that theory expects of the last point."""
    took = lambda case, seconds, repeats: [case.about() | {"seconds": {"gradient": [1e-6 * case.shape[-1] ** 2]}}]
    monkeypatch.setattr(bench, "times", took)
    assert [r["shape"][-1] for r in bench.growth(shapes.SCALING["ot sort along n"], 0.0)] == [100, 1_000, 10_000]
    assert len(list(bench.growth(shapes.SCALING["ot sort along batch"], 0.0))) == 5


@pytest.mark.parametrize("name", ["standard", "scaling", "memory", "compiling"])
def test_a_set_is_measured_and_shown(name, monkeypatch):
    """One line, with a cell in every column."""
    monkeypatch.setattr(shapes, "MEMORY_SIZES", (40, 80))
    what, case = bench.SETS[name], Case("sort", "softsort", (2, 40))
    records = list(what.measure(("n", [case, replace(case, shape=(2, 80))]) if name == "scaling" else case, 0.0))
    (cells,), (line,) = what.table.rows(records), what.table.lines(records)
    assert len(cells) == len(what.table.header) and line.startswith("softsort sort")


def test_without_a_gpu_nothing_runs(monkeypatch, capsys):
    """One line says why, and names all that is not installed; the exit status is 1."""
    assert bench.main(["--set", "kernels"]) == 1
    assert capsys.readouterr().out == "make gpu needs a GPU: JAX's first device here is 'cpu' (cpu).\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("hypothesis", "scipy") else name)
    assert (gpu_check.missing() or "").startswith("make gpu needs hypothesis, scipy for ")


@pytest.mark.skipif(jax_version() < OLDEST_JAX, reason=f"kernels need JAX >= 0.11, this is {jax.__version__}")
def test_a_kernel_is_measured_and_shown(monkeypatch):
    """Four candidates, forward and with the gradient; a kernel that disagrees is told, not hidden."""
    case = Case("argsort", "softsort", (1, 20))
    (found,) = kernel_comparison.measure(case, 0.0, "pallas_interpret")
    assert not found["refused"]
    assert [row[:3] for row in tables.KERNELS.rows([found])] == [
        ["softsort argsort 1 x 20", which, "pallas_interpret"] for which in ("forward", "gradient")
    ]
    assert all(float(cell) > 0 for row in tables.KERNELS.rows([found]) for cell in row[3:])
    monkeypatch.setattr(Case, "disagreement", lambda self, mine, plain: "results differ")
    (refused,) = kernel_comparison.measure(case, 0.0, "pallas_interpret")
    assert refused["refused"] == {"kernel parity": "results differ"}
    for text in (tables.KERNELS.text([refused]), "\n".join(tables.KERNELS.lines([refused]))):
        assert "- softsort argsort 1 x 20, kernel parity: results differ" in text


@pytest.mark.parametrize(
    ("meaning", "ours", "theirs", "told"),
    [
        ("same", 1.0, [1.0, 2.0], None),
        ("same", 1.0, [1.0, 2.1], "results differ by 1.0e-01"),
        ("same", 1.0, [1.0, math.nan], "results differ by nan"),
        ("same", 1.0, [1.0], "1 results against 2"),
        ("near", 1.0, [1.0, 2.1], "results differ by 1.0e-01"),
        ("limit", 1.0, [1.005, 2.0], None),
        ("limit", 1.0, [1.1, 2.0], "results differ from the hard ones by 1.0e-01"),
        ("limit", 1.5, [1.0, 2.0], "results differ from the hard ones by 5.0e-01"),
        ("hard", 1.5, [1.1, 2.0], "results differ from the hard ones by 1.0e-01"),
        ("hard", 1.5, [1.0, 2.0], None),
    ],
)
def test_unequal_results_are_refused(compare, meaning, ours, theirs, told):
    """Nothing is timed whose results, or ours, are not equal in the comparison's sense."""
    case = compare.Comparison("sort", "softsort", (1, 2), 0.1, {"peer": meaning}, agrees=0.01)
    assert compare.refusal(case, meaning, np.array([ours, 2.0]), np.array(theirs), np.array([1.0, 2.0])) == told


def test_every_comparison_has_its_peers(compare):
    """Each peer of a comparison has an environment, and the number of its own that it is called with."""
    import environments

    for case in compare.COMPARISONS:
        meanings = {"same", "near", "limit", "hard"}
        assert case.peers.keys() <= environments.PEERS.keys() and set(case.peers.values()) <= meanings
        without = {peer for peer, meaning in case.peers.items() if peer == "release" or meaning == "hard"}
        assert case.theirs.keys() == case.peers.keys() - without


def test_every_committed_result_is_on_the_page():
    """docs/performance.md is what `make report` makes of perf/results."""
    text = (report.DOCS / "performance.md").read_text(encoding="utf-8")
    machines = report.files(record.RESULTS)
    assert machines
    for machine, found in machines.items():
        assert f"## {machine}\n" in text, machine
        assert report.held(found) in text or not bars.meant_for(machine), machine
        for kind in report.SECTIONS.keys() & found.keys():
            assert report.SECTIONS[kind][1].text(found[kind]) in text, (machine, kind)


def test_every_bar_is_measured(compare):
    """By a case of the standard set, a comparison, or a size whose memory is read; and each bar is there once."""
    there = {
        "bench": [case.about() for case in shapes.STANDARD],
        "peers": [{"case": case.name} for case in compare.COMPARISONS],
        "memory": [case.about() for case in shapes.MEMORY],
    }
    assert all(any(map(bar.of, there[bar.kind])) for bar in bars.BARS)
    assert len({(bar.case, bar.shape, bar.softness, bar.figure) for bar in bars.BARS}) == len(bars.BARS) == 118


def test_a_bar_that_is_missed_is_told():
    """Above the most, below the least, and where nothing was measured."""
    most = bars.Bar("bench", "sort", "forward", 2.0, (8,))
    least = bars.Bar("peers", "sort", "times faster, value and gradient", 2.0, at_least=True)

    def records(ratio):
        peer = {"softjax": {"gradient": [1.0] * 3}, "release": {"gradient": [ratio] * 3}}
        bench = {"case": "sort", "shape": [8], "seconds": {"sort": [1.0] * 3, "forward": [ratio] * 3}}
        return {"bench": [bench], "peers": [{"case": "sort", "sides": {}, "seconds": peer}]}

    assert [most.holds(records(ratio)) for ratio in (1.9, 2.0, 2.1)] == [True, True, False]
    assert [least.holds(records(ratio)) for ratio in (1.9, 2.0, 2.1)] == [False, True, True]
    assert not most.holds({}) and report.shown([most], {}) == ["not measured"] * 2
    assert report.shown([most, most], records(2.1)) == ["2.1", "2.1", "**NO**"]


def test_the_page_says_where_a_peer_is_faster():
    """And what was not timed."""
    line = {
        "case": "sort, 1 x 2",
        "peers": {"quick": "same", "other": "same", "gone": "limit"},
        "absent": {"gone": "no wheel"},
        "refused": {"other": "results differ by 1.0e+00"},
        "differences": {"quick": 1e-7},
        "sides": {"quick": {"no gradient": "ValueError"}},
        "seconds": {"softjax": {"forward": [0.004, 0.004]}, "quick": {"forward": [0.001, 0.001]}},
    }
    text = tables.PEERS.text([line])
    assert "- quick in 4.0 times less time: sort, 1 x 2, forward" in text
    assert "- quick, sort, 1 x 2, gradient: ValueError" in text
    assert "- gone, sort, 1 x 2: not installed: no wheel" in text
    assert "- other, sort, 1 x 2: refused: results differ by 1.0e+00" in text
    assert "| sort, 1 x 2 | quick | forward | same | 1e-07 | 1 | 4 | 0.25 |" in text
