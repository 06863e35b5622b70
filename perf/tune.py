"""Tile sizes and thresholds of this machine's GPU or TPU, measured, for softjax_pallas/tuning.

    python perf/tune.py                            every family of every implementation that runs here
    python perf/tune.py rows transport             some of: rows, columns, transport, thresholds
    python perf/tune.py --implementation pallas_mosaic_tpu
    python perf/tune.py --dry-run --implementation pallas_interpret --output FILE     the same path on a CPU, tiny

Each candidate tile is compiled, its result and gradient are compared with plain JAX's, and those that agree take turns.
Then the winner races implementation="xla" over rising sizes, for the thresholds from which on it is chosen. Writes
softjax_pallas/tuning/<device kind>.json; what is not measured in a run keeps what that file has, so that several runs
may work on it at once (PERF_LOCK=FILE, for each the same, lets one at a time measure and write).
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
from kernel_comparison import compare, implementations, programs
from record import context
from shapes import METHODS, Case
from sweeps import race, sweeps
from timing import alone, compiled_beside, ratios

from softjax_pallas import tuning
from softjax_pallas.ops.ot.limits import MAX_ANCHORS

WHAT = (*tuning.FAMILIES, "thresholds")
OPS = {"apply": "top_k", "rows": "argtop_k", "mask": "mask"}
"""The forms that transport is asked for, by the operators that ask for them."""


def ratio(record: dict) -> float:
    """The kernel's time as a multiple of plain JAX's, the larger of forward and gradient; infinite where it fails."""
    if record["refused"]:
        return math.inf
    return max(median(ratios(seconds["kernel"], seconds["xla"])) for seconds in record["seconds"].values())


def least(sizes: Sequence[int], found: Sequence[float]) -> int | None:
    """The smallest size from which on the kernel is faster at all that were tried, None if it is not at the largest."""
    best = None
    for size, value in zip(reversed(sizes), reversed(found), strict=True):
        if not value < 1:
            break
        best = size
    return best


def most(sizes: Sequence[int], found: Sequence[float]) -> int | None:
    """The largest size up to which the kernel is faster at all that were tried, None if it is not at the smallest."""
    return least(sizes[::-1], found[::-1])


def plan(method: str, implementation: str, tiny: bool) -> dict[str, dict[Any, Case]]:
    """What is raced for a method's rule: "ops", "keys", "batch", "anchors", and for each sizes and cases."""
    if method == "ot":
        base = Case("top_k", method, (2, 80), k=1) if tiny else Case("top_k", method, (1024, 1024), k=7)
        ops, keys = (["apply"], [80]) if tiny else (list(OPS), [128, 256, 512, 2048, 8192])
        batches, anchors = ([2], [2]) if tiny else ([1, 16, 64, 256, 4096], [2, 4, 8, 16, 33, 47, 64, 128])
        found = {"ops": {op: replace(base, operator=OPS[op]) for op in ops}}
        found["anchors"] = {a: replace(base, k=a - 1) for a in anchors if a <= MAX_ANCHORS[implementation]}
    else:
        base = Case("argsort", method, (2, 40) if tiny else (64, 1024))
        keys, batches = ([40], [2]) if tiny else ([64, 128, 256, 512, 1024, 2048], [1, 8, 64])
        found = {"ops": {"rows": base}}
    found["keys"] = {n: replace(base, shape=(base.shape[0], n)) for n in keys}
    found["batch"] = {b: replace(base, shape=(b, base.shape[1])) for b in batches}
    return found


def rule_of(axes: dict[str, dict[Any, Case]], known: dict[Case, float]) -> dict:
    """The rule that follows from the ratio of every case."""
    sizes = {along: list(cases) for along, cases in axes.items()}
    of = {along: [known[case] for case in cases.values()] for along, cases in axes.items()}
    ops = [op for op, value in zip(sizes["ops"], of["ops"], strict=True) if value < 1]
    found = {"least_keys": least(sizes["keys"], of["keys"]), "least_batch": least(sizes["batch"], of["batch"])}
    ends = {"least_keys": max(sizes["keys"]), "least_batch": max(sizes["batch"])}
    if "anchors" in axes:
        found["most_anchors"] = most(sizes["anchors"], of["anchors"])
        ends["most_anchors"] = min(sizes["anchors"])
    if None in found.values() or not ops:  # never faster at some end: no kernel is chosen
        return {"ops": []} | {name: found[name] or end for name, end in ends.items()}
    return {"ops": ops} | found


def thresholds(method: str, implementation: str, seconds: float, tiny: bool) -> dict:
    """The rule of a method, from measured ratios."""
    axes = plan(method, implementation, tiny)
    cases = list(dict.fromkeys(case for sizes in axes.values() for case in sizes.values()))  # the axes meet
    built = compiled_beside(
        ((case, key), lower) for case in cases for key, lower in programs(case, implementation, ("kernel", "xla"))
    )
    known = {}
    for case in cases:
        record = compare(case, {key: program for (of, key), program in built.items() if of == case}, seconds)
        known[case] = ratio(record)
        print(f"  {case.key}: {known[case]:.2f} of xla's time", *record["refused"].items(), flush=True)
    return rule_of(axes, known)


def tuned(implementation: str, wanted: Sequence[str], options: Any, keep: Callable[[dict, dict], None]) -> None:
    """Measure, and hand tiles and the rule, as a file has them, to `keep` whenever there is more."""
    tiles: dict[str, Any] = {}
    transport: list[dict] = []
    for sweep in sweeps(implementation, [family for family in tuning.FAMILIES if family in wanted], options.dry_run):
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
        keep(tiles, {})
    if transport:  # a list, which is kept when it is whole
        tiles["transport"] = transport
        keep(tiles, {})
    if "thresholds" in wanted:
        with tuning.override(tuning.table({"tiles": {implementation: tiles}})):
            for method in options.methods:
                rule = thresholds(method, implementation, options.seconds, options.dry_run)
                print(f"{implementation} rule of {method}: {rule}", flush=True)
                keep(tiles, {method: rule})


def merged(old: dict, implementation: str, tiles: dict, rules: dict, measured: bool) -> dict:
    """A file's contents with what was measured in place."""
    all_tiles = {**old.get("tiles", {})}
    all_tiles[implementation] = {**all_tiles.get(implementation, {}), **tiles}
    platform = tuning.PLATFORM.get(implementation, jax.default_backend())
    kernels = {**old.get("kernels", {})}
    for method, rule in rules.items():
        kernels[method] = {**kernels.get(method, {}), platform: rule}
    about = context()
    head = {"measured": measured, "device": about["device"], "commit": about["commit"], "date": about["date"]}
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
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, for any implementation; needs --output")
    options = parser.parse_args(arguments)
    if unknown := set(options.what) - set(WHAT):
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(WHAT)}")
    if options.dry_run and options.output is None:
        parser.error("--dry-run measures nothing worth keeping: name a file with --output")
    device, here = jax.devices()[0], implementations()
    chosen = [options.implementation] if options.implementation else here
    if not options.dry_run and not (chosen and set(chosen) <= set(here)):
        what = f"{', '.join(chosen)} runs not" if chosen else "no kernel runs"
        print(f"Nothing to tune: {what} on {device.device_kind} ({device.platform}).")
        return 1
    path = options.output or tuning.file_of(device.device_kind)
    for implementation in chosen:
        # A rule is that of the implementation which is chosen here.
        wanted = [what for what in options.what or WHAT if what != "thresholds" or implementation == chosen[0]]

        def keep(tiles, rules, implementation=implementation):
            with alone():
                data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                found = merged(data, implementation, tiles, rules, not options.dry_run)
                tuning.table(found)  # what does not load is not written
                path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

        tuned(implementation, wanted, options, keep)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
