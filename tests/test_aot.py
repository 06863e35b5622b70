"""Kernels built ahead of time: what is read from the compilers' reports, and which programs need not be compiled."""

import sys
from pathlib import Path

import gate
import jax
import jax.numpy as jnp
import pytest

sys.path.append(str(Path(gate.__file__).parent / "aot"))
import buffers
import bundles
import fingerprint
import table

GPU = {"target": "h200", "implementation": "pallas_mosaic_gpu", "compiler": "ptxas 1"}
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


def test_the_table_ends_in_the_gate(tmp_path, monkeypatch, capsys):
    """Within bounds it passes and is written; a kernel that spills fails before it is compared."""
    row = GPU | {"kernel": "sort", "fingerprint": "a1", "keys": 8_000, "result": 0, "temp": 0, "registers": [64]}
    monkeypatch.setattr(table, "rows", lambda *_: [row])
    how = ["h200", "--baseline", str(tmp_path / "baseline.json")]
    assert table.main([*how, "--update"]) == 0 and table.main([*how, "--strict"]) == 0
    monkeypatch.setattr(table, "rows", lambda *_: [row | {"spills": 8}])
    assert table.main(how) == 1
    printed = capsys.readouterr().out
    assert "FAILED: spills 8 bytes" in printed and printed.endswith("The gate of the kernels FAILS.\n")
    assert table.problem(GPU | {"kernel": "sort", "known": True}) is None


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
