"""Kernels built ahead of time: what is read from the compilers' reports, and the gate that holds it to a baseline."""

import json
import sys
from pathlib import Path

import aot_gate
import jax
import jax.numpy as jnp
import pytest
from judgement import TOLERANCE, Baseline

sys.path.append(str(Path(aot_gate.__file__).parent / "aot"))
import buffers
import bundles
import fingerprint
import loops
import table

GPU = {"target": "h200", "implementation": "pallas_mosaic_gpu", "kernel": "sort", "compiler": "ptxas 1", "temp": 0}
TPU = {"target": "v5e", "implementation": "pallas_mosaic_tpu", "kernel": "sort", "compiler": "libtpu 1", "temp": 0}
ROWS = [
    GPU | {"registers": [64, 128], "spills": 0, "fingerprint": "a1"},
    TPU | {"fingerprint": "b2", "schedules": [{"inner bundles": 200, "bundles": 400, "vector spills": 0}]},
]
SCHEDULE = """
     0   :  { %s0 = smov 0 }
   0x1 LB: > { %s1 = sadd.s32 1 }
   0x2   : > { }
   0x3 LB: >> { %v1 = vadd }
   0x4   : >> { %v2 = vadd }
   0x5   : > { %v3 = vadd }
   0x6   : >> { %v4 = vadd }
   0x7 LB: >> { %v5 = vadd }
   0x8   : > { }
   0x9   :  { }
"""
MACHINE_CODE = """
.L_x_2:
        /*0010*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0020*/                   FADD R2, R2, R3 ;
        /*0030*/               @P0 BRA `(.L_x_3) ;
        /*0040*/              @!P1 BRA `(.L_x_1) ;
.L_x_3:
        /*0050*/              @!P2 BRA `(.L_x_2) ;
        /*0060*/                   EXIT ;
.L_x_4:
        /*0070*/                   BRA `(.L_x_4);
"""
UNITS = """== CAPACITY:
MXU, XLU, VALU, VPOP, EUP, VLOAD, VLOAD:FILL, VSTORE, VSTORE:SPILL, SALU
    4     3     4     2     1     3     3     1     1     2
== UTILIZATION:
0 0 4 0 0 1 2 0 1 2
0 0 4 0 0 1 0 0 0 2
"""

BUFFERS = """BufferAssignment:
allocation 0: size 512, page 0, thread-local:
 value: <62 add @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 8192, page 0, parameter 0, shape |f32[2,1000]| at ShapeIndex {}:
allocation 2: size 8192, page 0, maybe-live-out:
allocation 3: size 1536, color 6, page 0, preallocated-temp:
allocation 4: size 98304, page 0, preallocated-temp:
 value: <366 iota @0> (size=8192,offset=32768): s32[2,1000]{1,0:T(2,128)}
allocation 5: size 254976, color 1, page 0, preallocated-temp:
"""


@pytest.fixture
def run(tmp_path):
    """The gate's exit status on rows, against a baseline made of ROWS."""

    def status(rows, *options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return aot_gate.main([str(path), "--baseline", str(tmp_path / "baseline.json"), *options])

    assert status(ROWS, "--update") == 0
    return status


def changed(place, **figures):
    """ROWS with something else in one of them."""
    return [row | (figures if number == place else {}) for number, row in enumerate(ROWS)]


def test_the_same_kernels_pass(run, capsys):
    assert run(ROWS, "--strict") == 0
    assert "The gate of the kernels is passed." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "worse", "told"),
    [
        (0, {"registers": [64, 160]}, ("kernel 1", "registers", "128", "160", "x 1.25")),
        (0, {"registers": [72, 128]}, ("kernel 2", "registers", "64", "72", "x 1.12")),
        (0, {"spills": 4}, ("program", "spill bytes", "0", "4", "new")),
        (0, {"temp": 4_096}, ("program", "temporary bytes", "0", "4,096", "new")),
        (0, {"registers": [64, 64, 128]}, ("program", "kernels", "2", "3", "x 1.50")),
        (
            1,
            {"schedules": [{"inner bundles": 230, "bundles": 430, "vector spills": 0}]},
            ("kernel 1", "inner bundles", "200", "230", "x 1.15"),
        ),
        (
            1,
            {"schedules": [{"inner bundles": 200, "bundles": 400, "vector spills": 9}]},
            ("kernel 1", "vector spills", "0", "9", "new"),
        ),
    ],
)
def test_a_planted_worsening_fails(run, capsys, place, worse, told):
    """The table names the kernel, the figure that grew, and by how much."""
    assert run(changed(place, **worse)) == 1
    printed = capsys.readouterr().out
    table = printed[printed.index("WORSE than the baseline:") :]
    which, figure, *numbers = told
    row = next(line for line in table.splitlines() if f" {which} " in line and f" {figure} " in line)
    assert row.split()[-4:] == [*numbers[:2], "x", numbers[2][2:]] if "x" in numbers[2] else row.split()[-3:] == numbers
    assert "The gate of the kernels FAILS." in table


def test_an_improvement_is_taken_over_on_purpose(run, capsys):
    better = changed(0, registers=[40, 100])
    assert run(better) == 0
    assert "`make baseline-aot`, and commit perf/baseline.json" in capsys.readouterr().out
    assert run(better, "--strict") == 1
    assert run(better, "--update") == 0 and run(better, "--strict") == 0


def test_a_kernel_that_is_gone_fails(run, capsys):
    """Unless only a part was asked for; another target is none of its business."""
    more = [*ROWS, ROWS[0] | {"kernel": "rank"}]
    assert run(more, "--update") == 0
    assert run(ROWS) == 1 and run(ROWS, "--part") == 0
    assert "`make baseline-aot` brings them together: h200 pallas_mosaic_gpu rank\n" in capsys.readouterr().out
    assert run([more[0], more[2]]) == 0


def test_a_new_kernel_is_told(run, capsys):
    """It passes, except where the gate is strict."""
    more = [*ROWS, ROWS[0] | {"kernel": "rank"}]
    assert run(more) == 0
    assert "Not in the baseline: h200 pallas_mosaic_gpu rank." in capsys.readouterr().out
    assert run(more, "--strict") == 1


def test_a_kernel_that_does_not_compile_fails(run, capsys):
    failed = {"target": "h200", "implementation": "pallas_mosaic_gpu", "kernel": "sort", "error": "no such layout"}
    assert run([failed, ROWS[1]]) == 1
    assert "h200 pallas_mosaic_gpu sort: no such layout" in capsys.readouterr().out


def test_another_compiler_is_not_compared(run, capsys):
    other = [row | {"compiler": "another"} for row in ROWS]
    assert run(other) == 0
    assert "No baseline for another; there is one for libtpu 1; ptxas 1. Not compared." in capsys.readouterr().out
    assert run(other, "--strict") == 1


def test_a_known_program_has_the_figures_of_the_baseline(run, tmp_path, capsys):
    """Its fingerprint is written with them; without them it is an error."""
    written = json.loads((tmp_path / "fingerprints-aot.json").read_text("utf-8"))
    assert written == {
        "ptxas 1": {"h200 pallas_mosaic_gpu sort": "a1"},
        "libtpu 1": {"v5e pallas_mosaic_tpu sort": "b2"},
    }
    known = GPU | {"fingerprint": "a1", "known": True}
    assert table.problem(known) is None
    assert run([known, ROWS[1]], "--strict") == 0
    assert run([known | {"kernel": "rank"}, ROWS[1]]) == 1
    assert "h200 pallas_mosaic_gpu rank: has a fingerprint, but no figures in baseline.json" in capsys.readouterr().out


def test_what_is_known_is_left_out_but_for_a_sample():
    """A program that changed, fails, has another compiler or shares a kernel with a compiled one is not."""
    names = [f"sort {number}" for number in range(80)]
    rows = [GPU | {"kernel": name, "fingerprint": name} for name in names]
    record = {"ptxas 1": {f"h200 pallas_mosaic_gpu {name}": name for name in names}}
    alone = [()] * 80
    left = fingerprint.known(rows, alone, record)
    assert 60 <= len(left) < 80 and fingerprint.known(rows, alone, {}) == []
    first, second = left[:2]
    for other in ({"fingerprint": "new"}, {"error": "no such layout"}, {"compiler": "ptxas 2"}):
        changed = [row | other if place == first else row for place, row in enumerate(rows)]
        assert fingerprint.known(changed, alone, record) == left[1:]
        shared = [("both",) if place in (first, second) else () for place in range(80)]
        assert fingerprint.known(changed, shared, record) == left[2:]


def test_a_fingerprint_is_of_what_is_computed(monkeypatch):
    """And not of the line where it is written."""
    made = lambda function, target="v5e": fingerprint.of(jax.jit(function).lower(jnp.ones(3)), target)
    first = made(lambda x: x + 1)
    assert first == made(
        lambda x: x + 1,
    )
    assert len({first, made(lambda x: x + 2), made(lambda x: x + 1, "h200")}) == 3
    monkeypatch.setattr(fingerprint, "_TOOLS", ())
    assert made(lambda x: x + 1) != first


def test_bundles_of_the_innermost_loops():
    """Of ten, those with the marks of a loop that holds no other."""
    assert bundles.in_loops(SCHEDULE) == (10, [3, 1])


def test_instructions_of_the_innermost_loops():
    """What a branch backwards spans, if it holds no other loop; a kernel ends in a branch to itself."""
    assert loops.of_machine_code(MACHINE_CODE) == (7, [3])


def test_spilled_vector_registers():
    assert bundles.spilled(UNITS) == 3


def test_temporaries_in_memory():
    """Of all allocations, what is for temporaries and in no other memory."""
    assert buffers.temporary(BUFFERS) == 98_304
    assert buffers.temporary(BUFFERS.replace("allocation 4: size 98304, page 0, preallocated-temp:\n", "")) == 0
    with pytest.raises(AssertionError, match="no allocations"):
        buffers.temporary("BufferAssignment:\n")


@pytest.mark.parametrize(
    ("target", "keys", "most"),
    [("h200", 8_000, 2**20), ("v5p", 8_000, 2**20), ("v5e", 2**19, 2**20), ("v5p", 2**19, 2**20 + 17 * 2**19)],
)
def test_temporary_memory_is_bounded(target, keys, most):
    """The result and 1 MiB; on v5p vectors of a large batch beside."""
    row = {"target": target, "keys": keys, "result": 100, "temp": 100 + most, "registers": [64]}
    assert table.problem(row) is None
    assert (
        table.problem(row | {"temp": 101 + most}) == f"takes {101 + most} bytes of temporary memory for a result of 100"
    )


def test_committed_baseline_is_readable():
    """Every figure has a tolerance, and no kernel spills."""
    found = Baseline(aot_gate.BASELINE, "").read()
    parts = [part for cases in found.values() for parts in cases.values() for part in parts.values()]
    assert parts and {name for part in parts for name in part} <= TOLERANCE.keys()
    assert not any(part.get("spill bytes") for part in parts)
