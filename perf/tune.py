"""Tile sizes and thresholds of this machine's GPU or TPU, measured, for softjax_pallas/tuning.

    python perf/tune.py                            every family of every implementation that runs here
    python perf/tune.py rows transport             some of: rows, columns, transport, thresholds
    python perf/tune.py --implementation pallas_mosaic_tpu
    python perf/tune.py --dry-run --implementation pallas_interpret --output FILE     the same path on a CPU, tiny

Each candidate tile is compiled, its result and gradient are compared with plain JAX's, and those that agree take turns.
Then the winner races implementation="xla" over rising sizes, for the thresholds from which on it is chosen. Writes
softjax_pallas/tuning/<device kind>.json; what is not measured in a run keeps what that file has, so that several runs
may work on it at once (PERF_LOCK=FILE, for each the same, lets one at a time measure).
"""

import argparse
import fcntl
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
from progress import tqdm
from record import context
from sweeps import Call, implementations, race, sweeps
from timing import compiled_beside, interleaved, ratios

from softjax._primitive import PLATFORMS
from softjax_pallas import tuning
from softjax_pallas.ops.ot.limits import MAX_ANCHORS

WHAT = (*tuning.FAMILIES, "thresholds")
OPS = ("apply", "rows", "mask")
METHODS = ("ot", "softsort", "neuralsort")
KINDS = ("forward", "function")
"""Methods of `Call` that make its programs: the result, and that with the gradient."""


def ratio(call: Call, implementation: str, programs: dict, seconds: float) -> float:
    """The kernel's time as a multiple of plain JAX's, the larger of forward and gradient; infinite where it fails.

    `programs` has both, compiled or what stopped them, by call, kind and name.
    """
    x, worst = call.keys(), 0.0
    for kind in KINDS:
        pair = {name: programs[call, kind, name] for name in (implementation, "xla")}
        try:
            for program in pair.values():
                if isinstance(program, Exception):
                    raise program
            if kind == "function":
                mine, plain = (pair[name](x) for name in (implementation, "xla"))
                if call.disagreement(mine, plain) is not None:
                    return float("inf")
            times = interleaved({name: (program, (x,)) for name, program in pair.items()}, 11, seconds)
        except (NotImplementedError, jax.errors.JaxRuntimeError) as error:  # no kernel, or no memory for plain JAX
            tqdm.write(f"{call}: {str(error).splitlines()[0][:160]}")
            return float("inf")
        worst = max(worst, median(ratios(times[implementation], times["xla"])))
    return worst


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
    turned = [-size for size in reversed(sizes)]
    best = least(turned, list(reversed(found)))
    return None if best is None else -best


def plan(method: str, implementation: str, tiny: bool) -> dict[str, dict[Any, Call]]:
    """What is raced for a method's rule: "op", "keys", "batch", "anchors", and for each sizes and calls."""
    if method == "ot":
        base = Call("apply", method, 2, 80, 1) if tiny else Call("apply", method, 1024, 1024, 7)
        ops, keys = (OPS[:1], (80,)) if tiny else (OPS, (128, 256, 512, 2048, 8192))
        batches, anchors = ((2,), (2,)) if tiny else ((1, 16, 64, 256, 4096), (2, 4, 8, 16, 33, 47, 64, 128))
        held = MAX_ANCHORS[implementation]
        found = {"op": {op: replace(base, operator=op) for op in ops}}
        found["anchors"] = {a: replace(base, k=a - 1) for a in anchors if a <= held}
    else:
        base = Call("argsort", method, 2, 40) if tiny else Call("argsort", method, 64, 1024)
        keys, batches = ((40,), (2,)) if tiny else ((64, 128, 256, 512, 1024, 2048), (1, 8, 64))
        found = {"op": {"rows": base}}
    found["keys"] = {n: replace(base, n=n) for n in keys}
    found["batch"] = {b: replace(base, batch=b) for b in batches}
    return found


def thresholds(method: str, implementation: str, seconds: float, tiny: bool) -> tuple[dict, list[dict]]:
    """The rule of a method, and the measured ratios that it follows from."""
    axes = plan(method, implementation, tiny)
    calls = list(dict.fromkeys(call for sizes in axes.values() for call in sizes.values()))  # the axes meet
    keys = ((call, kind, name) for call in calls for kind in KINDS for name in (implementation, "xla"))
    lower = lambda call, kind, name: jax.jit(getattr(call, kind)(name)).lower(call.keys())
    programs = compiled_beside((key, partial(lower, *key)) for key in keys)
    known = {}
    for call in (bar := tqdm(calls, unit="size", leave=False, disable=None)):
        bar.set_postfix_str(f"{implementation} against xla: {call}")
        known[call] = ratio(call, implementation, programs, seconds)
    told = [
        {"along": along, "at": size, "call": str(call), "ratio": known[call]}
        for along, sizes in axes.items()
        for size, call in sizes.items()
    ]
    of = {along: [known[call] for call in sizes.values()] for along, sizes in axes.items()}
    ops = tuple(op for op, value in zip(axes["op"], of["op"], strict=True) if value < 1)
    ends = {"keys": max(axes["keys"]), "batch": max(axes["batch"])}
    found = {along: least(list(axes[along]), of[along]) for along in ends}
    if "anchors" in axes:
        ends["anchors"] = min(axes["anchors"])
        found["anchors"] = most(list(axes["anchors"]), of["anchors"])
    if None in found.values() or not ops:  # never faster at some end: no kernel is chosen
        ops, found = (), {along: found[along] or end for along, end in ends.items()}
    names = {"keys": "least_keys", "batch": "least_batch", "anchors": "most_anchors"}
    return {"ops": list(ops)} | {names[along]: size for along, size in found.items()}, told


def tuned(implementation: str, wanted: Sequence[str], options: Any, keep: Callable[[dict, dict], None]) -> dict:
    """Measure, and hand tiles and the rule, as a file has them, to `keep` whenever there is more; what was tried."""
    seconds, tiny = options.seconds, options.dry_run
    tiles: dict[str, Any] = {}
    log: dict[str, Any] = {}
    transport: list[dict] = []
    families = [family for family in tuning.FAMILIES if family in wanted]
    for sweep in sweeps(implementation, families, tiny):
        best, told = race(sweep, seconds)
        name = sweep.family if sweep.family != "transport" else f"transport {asdict(sweep.candidates[0])['anchors']}"
        log[name] = told
        refused = sum("refused" in line for line in told)
        print(f"{implementation} {name}: {best or 'no candidate agrees'}; {refused} of {len(told)} refused", flush=True)
        if sweep.family == "transport":  # a list, which is kept when it is whole
            transport.append(asdict(best or sweep.current()))
        elif best is not None:
            tiles[sweep.family] = asdict(best)
        keep(tiles, {})
    if transport:
        tiles["transport"] = transport
        keep(tiles, {})
    if "thresholds" in wanted:
        with tuning.override(tuning.table({"tiles": {implementation: tiles}})):
            for method in options.methods:
                rule, log[f"thresholds {method}"] = thresholds(method, implementation, seconds, tiny)
                print(f"{implementation} rule of {method}: {rule}", flush=True)
                keep(tiles, {method: rule})
    return log


def merged(old: dict, implementation: str, tiles: dict, rules: dict, measured: bool) -> dict:
    """A file's contents with what was measured in place."""
    all_tiles = {**old.get("tiles", {})}
    all_tiles[implementation] = {**all_tiles.get(implementation, {}), **tiles}
    kernels = {**old.get("kernels", {})}
    platform = jax.devices()[0].platform
    for method, rule in rules.items():
        kernels[method] = {**kernels.get(method, {}), PLATFORMS.get(platform, platform): rule}
    about = context()
    head = {"measured": measured, "device": about["device"], "commit": about["commit"], "date": about["date"]}
    versions = {name: about[name] for name in ("jax", "jaxlib", "python")}
    return {**head, "versions": versions, "kernels": kernels, "tiles": all_tiles}


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While no other process is in here for the same path."""
    with open(Path(tempfile.gettempdir()) / f"{path.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Tune what was asked for and write the file; 1 where there is nothing to tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"some of {', '.join(WHAT)}; all by default")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, choices=METHODS, help="whose thresholds; all by default"
    )
    parser.add_argument("--implementation", help="one of the implementations that run here; all by default")
    parser.add_argument("--output", type=Path, help="the file to write, in place of the device kind's")
    parser.add_argument("--log", type=Path, help="write what became of every candidate to this file")
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
    path, log = options.output or tuning.file_of(device.device_kind), {}
    for implementation in chosen:
        # A rule is that of the implementation which is chosen here.
        wanted = [what for what in options.what or WHAT if what != "thresholds" or implementation == chosen[0]]

        def keep(tiles, rules, implementation=implementation):
            with alone(path):
                data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                found = merged(data, implementation, tiles, rules, not options.dry_run)
                tuning.table(found)  # what does not load is not written
                path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

        log[implementation] = tuned(implementation, wanted, options, keep)
    if options.log:
        options.log.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
