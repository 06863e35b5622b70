"""Tile sizes and thresholds of this machine's GPU or TPU, measured, for softjax_pallas/tuning.

    python perf/tune.py                            every family of every implementation that runs here
    python perf/tune.py rows transport             some of: rows, columns, transport, thresholds
    python perf/tune.py --implementation pallas_mosaic_tpu
    python perf/tune.py --output FILE              write that file; any implementation then, of interpreters too

Each candidate tile is compiled, its result and gradient are compared with plain JAX's, and those that agree take turns.
Then the winner races implementation="xla" over rising sizes, for the thresholds from which on it is chosen. Writes
softjax_pallas/tuning/<device kind>.json; what is not measured in a run keeps what that file has, so that several runs
may work on it at once (PERF_LOCK=FILE, for each the same, lets one at a time measure and write).
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import jax
from kernel_comparison import compare, implementations, programs
from record import context
from shapes import METHODS, Case
from timing import alone, compiled_beside, interleaved, ratios

from softjax_pallas import tuning
from softjax_pallas.ops.ot.limits import MAX_ANCHORS
from softjax_pallas.tuning import Keys, Tile

WHAT = (*tuning.FAMILIES, "thresholds")
Candidate = Tile | Keys

# --- what is tried -------------------------------------------------------------------------------------

PAIRWISE = [Case("argsort", "softsort", (16, 2048), mode) for mode in ("smooth", "c1")]
PAIRWISE += [Case("sort", "neuralsort", (16, 2048), "c1")]
SIDES = (16, 32, 64, 128, 256)
TRANSPORT = [Case(operator, "ot", (1024, 1024)) for operator in ("top_k", "argtop_k")]
KEYS = (16, 32, 64, 128, 256, 512, 1024, 2048)

OPS = {"apply": "top_k", "rows": "argtop_k", "mask": "mask"}
"""The forms that transport is asked for, by the operators that ask for them."""
_SQUARES = {"least_keys": (64, 128, 256, 512, 1024, 2048), "least_batch": (1, 8, 64)}
AXES: dict[str, tuple[Case, dict[str, Sequence[int]]]] = {
    "softsort": (Case("argsort", "softsort", (64, 1024)), _SQUARES),
    "neuralsort": (Case("argsort", "neuralsort", (64, 1024)), _SQUARES),
    "ot": (
        Case("top_k", "ot", (1024, 1024), k=7),
        {
            "least_keys": (128, 256, 512, 2048, 8192),
            "least_batch": (1, 16, 64, 256, 4096),
            "most_anchors": (2, 4, 8, 16, 33, 47, 64, 128),
        },
    ),
}
"""A method's case, and the sizes along which kernels race plain JAX."""


@dataclass(frozen=True)
class Sweep:
    """A family's candidates on the cases that run its kernels; for transport up to so many anchors."""

    implementation: str
    family: str
    cases: Sequence[Case]
    candidates: Sequence[Candidate]

    def table(self, tile: Candidate) -> tuning.Table:
        """The table that holds a candidate and nothing else."""
        entry = (tile,) if isinstance(tile, Keys) else tile
        return tuning.Table(tiles={self.implementation: {self.family: entry}})

    def current(self) -> Candidate:
        """What would be used without a sweep."""
        if self.family == "transport":
            anchors = max(entry.anchors for entry in self.candidates if isinstance(entry, Keys))
            return replace(tuning.keys(self.implementation, anchors), anchors=anchors)
        return tuning.tile(self.implementation, self.family)


def sweeps(implementation: str, families: Iterable[str]) -> Iterator[Sweep]:
    """What there is to try for some families, of tiles that the compiler may take."""
    allowed = lambda family, tiles: [t for t in tiles if tuning.limit(implementation, family, t) is None]
    entries: Any = tuning.load(tuning.FOLDER / "default.json").tiles[implementation]["transport"]
    for family in families:
        if family != "transport":
            tiles = [Tile(*sides) for sides in itertools.product(SIDES, SIDES)]
            yield Sweep(implementation, family, PAIRWISE, allowed(family, tiles))
            continue
        for anchors in sorted(entry.anchors for entry in entries):  # as many as the default file tells apart
            cases = [replace(case, k=anchors - 1) for case in TRANSPORT]  # and a filler
            yield Sweep(implementation, family, cases, allowed(family, [Keys(anchors, n) for n in KEYS]))


# --- tiles ---------------------------------------------------------------------------------------------


def race(sweep: Sweep, seconds: float) -> tuple[Candidate | None, dict[Candidate, list[float] | str]]:
    """The fastest candidate whose results agree with plain JAX's, None where none does.

    Beside it each candidate's median seconds of every case, or why it is out; of one case all candidates take turns.
    """

    def traced() -> Iterator[tuple[Any, Callable]]:
        for tile in dict.fromkeys((sweep.current(), *sweep.candidates)):
            with tuning.override(sweep.table(tile)):
                for case in sweep.cases:
                    function = case.by(sweep.implementation).result_and_gradient()
                    yield (tile, case), partial(jax.jit(function).lower, case.abstract())

    plain = {case: jax.jit(case.by("xla").result_and_gradient())(case.keys()) for case in sweep.cases}
    built = compiled_beside(traced())
    told: dict[Candidate, Any] = {tile: [] for tile, _ in built}
    for (tile, case), program in built.items():
        told[tile] = told[tile] or _wrong(case, program, plain[case]) or []
    racing = [tile for tile, reason in told.items() if not reason]
    for case in sweep.cases:
        times = interleaved({str(tile): built[tile, case] for tile in racing}, case.keys(), seconds=seconds)
        for tile in racing:
            told[tile].append(median(times[str(tile)]))
    return min(racing, key=lambda tile: geometric_mean(told[tile]), default=None), told


def _wrong(case: Case, program: Any, plain: Any) -> str | None:
    """Why a candidate is out, or None: it did not compile or run, or does not agree with plain JAX."""
    try:
        if isinstance(program, Exception):
            raise program
        return case.disagreement(program(case.keys()), plain)
    except Exception as error:  # a compiler's refusal is a result; it is told
        return f"{type(error).__name__}: {str(error)[:200]}"


# --- thresholds ----------------------------------------------------------------------------------------


def least(sizes: Sequence[int], found: Sequence[float]) -> int | None:
    """The smallest size from which on the kernel is faster at all that were tried, None if it is not at the largest."""
    slow = [place for place, value in enumerate(found) if not value < 1]
    first = slow[-1] + 1 if slow else 0
    return sizes[first] if first < len(sizes) else None


def rule(method: str, implementation: str, ratio: Callable[[Iterable[Case]], dict[Case, float]]) -> dict:
    """From which sizes on a kernel is chosen, by the ratio of its time to plain JAX's in the cases that it asks for."""
    base, axes = AXES[method]
    batch, n = base.shape
    at = {
        "least_keys": lambda size: replace(base, shape=(batch, size)),
        "least_batch": lambda size: replace(base, shape=(size, n)),
        "most_anchors": lambda size: replace(base, k=size - 1),  # and a filler
    }
    held = {
        name: [s for s in sizes if name != "most_anchors" or s <= MAX_ANCHORS[implementation]]
        for name, sizes in axes.items()
    }
    ops = {op: replace(base, operator=OPS[op]) for op in OPS} if method == "ot" else {"rows": base}
    cases = [*ops.values(), *(at[name](size) for name, sizes in held.items() for size in sizes)]
    known = ratio(dict.fromkeys(cases))  # the axes meet
    found: dict[str, Any] = {"ops": [op for op, case in ops.items() if known[case] < 1]}
    ends: dict[str, Any] = {"ops": []}
    for name, sizes in held.items():
        sizes = sizes[::-1] if name == "most_anchors" else sizes
        found[name], ends[name] = least(sizes, [known[at[name](size)] for size in sizes]), sizes[-1]
    if None in found.values() or not found["ops"]:  # never faster at some end: no kernel is chosen
        return ends | {name: size for name, size in found.items() if size and name != "ops"}
    return found


def measured(implementation: str, seconds: float, cases: Iterable[Case]) -> dict[Case, float]:
    """The kernel's time as a multiple of plain JAX's, the larger of forward and gradient; infinite where it fails."""
    keys = ((case, key, lower) for case in cases for key, lower in programs(case, implementation, ("kernel", "xla")))
    built = compiled_beside(((case, key), lower) for case, key, lower in keys)
    found = {}
    for case in cases:
        record = compare(case, {key: program for (of, key), program in built.items() if of == case}, seconds)
        values = [
            median(ratios(times["kernel"], times["xla"])) for times in record["seconds"].values() if len(times) == 2
        ]
        found[case] = math.inf if record["refused"] else max(values)
        print(f"  {case.key}: {found[case]:.2f} of xla's time", *record["refused"].items(), flush=True)
    return found


# --- the command ---------------------------------------------------------------------------------------


def tuned(implementation: str, wanted: Sequence[str], options: Any) -> Iterator[tuple[dict, dict]]:
    """Measure: tiles and rules so far, as a file has them, whenever there is more."""
    tiles: dict[str, Any] = {}
    transport: list[dict] = []
    for sweep in sweeps(implementation, [family for family in tuning.FAMILIES if family in wanted]):
        best, told = race(sweep, options.seconds)
        for tile, found in told.items():
            print(f"  {tile}: {found if isinstance(found, str) else [f'{1e3 * time:.3f} ms' for time in found]}")
        refused = sum(isinstance(found, str) for found in told.values())
        chosen = best or "no candidate agrees"
        print(f"{implementation} {sweep.family}: {chosen}; {refused} of {len(told)} refused", flush=True)
        if sweep.family == "transport":
            transport.append(asdict(best or sweep.current()))
        elif best is not None:
            tiles[sweep.family] = asdict(best)
            yield tiles, {}
    if transport:  # a list, which is kept when it is whole
        tiles["transport"] = transport
        yield tiles, {}
    if "thresholds" in wanted:
        with tuning.override(tuning.table({"tiles": {implementation: tiles}})):
            for method in options.methods:
                found = rule(method, implementation, partial(measured, implementation, options.seconds))
                print(f"{implementation} rule of {method}: {found}", flush=True)
                yield tiles, {method: found}


def merged(old: dict, implementation: str, tiles: dict, rules: dict) -> dict:
    """A file's contents with what was measured in place."""
    all_tiles = {**old.get("tiles", {})}
    all_tiles[implementation] = {**all_tiles.get(implementation, {}), **tiles}
    platform = tuning.PLATFORM.get(implementation, jax.default_backend())
    kernels = {**old.get("kernels", {})}
    for method, found in rules.items():
        kernels[method] = {**kernels.get(method, {}), platform: found}
    about = context()
    head = {"measured": implementation in implementations(), **{n: about[n] for n in ("device", "commit", "date")}}
    versions = {name: about[name] for name in ("jax", "jaxlib", "python")}
    return {**head, "versions": versions, "kernels": kernels, "tiles": all_tiles}


def main(arguments: list[str]) -> int:
    """Tune what was asked for and write the file; 1 where there is nothing to tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"some of {', '.join(WHAT)}; all by default")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="whose thresholds")
    parser.add_argument("--implementation", help="one of the implementations that run here; all by default")
    parser.add_argument("--output", type=Path, help="the file to write, in place of the device kind's")
    parser.add_argument("--seconds", type=float, default=2.0, help="start no round of a race after this long")
    options = parser.parse_args(arguments)
    if unknown := set(options.what) - set(WHAT):
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(WHAT)}")
    device, here = jax.devices()[0], implementations()
    chosen = [options.implementation] if options.implementation else here
    if not chosen or not (options.output or set(chosen) <= set(here)):
        what = f"{', '.join(chosen)} runs not" if chosen else "no kernel runs"
        print(f"Nothing to tune: {what} on {device.device_kind} ({device.platform}).")
        return 1
    path = options.output or tuning.file_of(device.device_kind)
    for implementation in chosen:
        # A rule is that of the implementation which is chosen here.
        wanted = [what for what in options.what or WHAT if what != "thresholds" or implementation == chosen[0]]
        for tiles, rules in tuned(implementation, wanted, options):
            with alone():
                data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                found = merged(data, implementation, tiles, rules)
                tuning.table(found)  # what does not load is not written
                path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
