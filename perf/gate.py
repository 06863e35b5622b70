"""Refuse a change that makes compiled programs larger, slower or hungrier: `make gate`, and `make baseline` to accept.

    python perf/gate.py                the figures of every case (perf/shapes.py: GATE) against perf/baseline.json
    python perf/gate.py softsort       cases whose name contains one of the words
    python perf/gate.py --twice        measure twice and demand the same figures
    python perf/gate.py --strict       an improvement fails too, and so does a compiler without a baseline
    python perf/gate.py --update       write perf/baseline.json for this compiler

Figures come from the compiler, not from a clock, so noise cannot move them; TOLERANCE says how much each may grow. The
baseline has one entry for each compiler that it was made with, and figures are only compared with their own: with
another version the gate says so and passes. An improvement beyond the tolerance does not fail, since nobody is worse
off, but it is shown: until `make baseline` takes it over, a later change may give it up unseen.

BANDS are the only times: ratios within one run, with so wide a limit that what crosses it is no noise.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import figures
import jax
from shapes import GATE, Case
from timing import compiled, interleaved, ratios

BASELINE = Path(__file__).resolve().parent / "baseline.json"


@dataclass(frozen=True)
class Tolerance:
    """By how much a figure may grow before it counts: a fraction of the baseline, or a number where that is more."""

    fraction: float = 0.0
    number: int = 0

    def allows(self, base: int) -> float:
        """The slack at this baseline."""
        return max(self.fraction * base, self.number)


TOLERANCE = {
    "temporary bytes": Tolerance(0.02, 1_024),
    "flops": Tolerance(0.02),
    "bytes accessed": Tolerance(0.02),
    "fusions": Tolerance(0.05, 1),
    "while loops": Tolerance(),
    "sorts": Tolerance(),
    "custom calls": Tolerance(),
    "instructions": Tolerance(0.05),
    # Where it stops depends on the last digits of sums, and those on the processor; two rows may stop one later.
    "iterations": Tolerance(0.0, 2),
}


@dataclass(frozen=True)
class Change:
    """A figure that is not what the baseline says."""

    case: str
    which: str
    figure: str
    base: int
    now: int

    @property
    def grew(self) -> bool:
        """Is it worse?"""
        return self.now > self.base

    def __str__(self) -> str:
        factor = f"x {self.now / self.base:.2f}" if self.base else "new"
        return f"{self.case:36}{self.which:10}{self.figure:18}{self.base:>16,}{self.now:>16,}{factor:>10}"


_HEADER = f"{'case':36}{'pass':10}{'figure':18}{'baseline':>16}{'now':>16}{'':>10}"


def changes(base: dict[str, figures.Figures], now: dict[str, figures.Figures]) -> list[Change]:
    """Figures beyond their tolerance, for the cases that both have."""

    def all_figures() -> Iterator[Change]:
        for case in base.keys() & now.keys():
            for which in sorted(base[case].keys() | now[case].keys()):
                was, has = base[case].get(which, {}), now[case].get(which, {})
                for name in [name for name in TOLERANCE if name in was or name in has]:
                    yield Change(case, which, name, was.get(name, 0), has.get(name, 0))

    beyond = [c for c in all_figures() if abs(c.now - c.base) > TOLERANCE[c.figure].allows(c.base)]
    return sorted(beyond, key=lambda c: (c.case, c.which, -c.now / max(c.base, 1)))


# --- times ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """A case's time, forward or with gradient, over that of the hard operator or of the dense form: at most `most`."""

    case: Case
    which: str
    over: str
    most: float

    def ratio(self) -> float:
        """The median of the ratios of calls in turns."""
        x = self.case.keys()
        soft = self.case.soft if self.which == "forward" else self.case.value_and_gradient()
        if self.over == "hard":
            other = self.case.hard
        else:
            dense = self.case.with_dense()
            other = dense.soft if self.which == "forward" else dense.value_and_gradient()
        programs = {name: (compiled(f, x)[0], (x,)) for name, f in (("soft", soft), ("other", other))}
        times = interleaved(programs, seconds=5.0)
        return median(ratios(times["soft"], times["other"]))


# Each limit is two to four times what was measured when it was set.
BANDS = (
    Band(Case("sort", "softsort", (8, 16_384)), "forward", "hard", 2.5),
    Band(Case("sort", "softsort", (8, 16_384)), "gradient", "hard", 4.0),
    Band(Case("sort", "softsort", (8, 16_384), "c1"), "forward", "hard", 8.0),
    Band(Case("mask", "ot", (8, 16_384)), "forward", "hard", 25.0),
    Band(Case("sort", "softsort", (1, 2_048)), "gradient", "dense", 0.25),
    Band(Case("sort", "neuralsort", (1, 4_096)), "gradient", "dense", 0.25),
    Band(Case("sort", "ot", (1, 512)), "forward", "dense", 0.75),
)


def bands_hold(bands: Sequence[Band]) -> bool:
    """Measure and show every ratio."""
    if bands:
        print(f"\n{'ratio within this run':36}{'pass':10}{'over':18}{'at most':>16}{'now':>16}")
    held = True
    for band in bands:
        ratio = band.ratio()
        held &= ratio <= band.most
        verdict = "" if ratio <= band.most else "  EXCEEDED"
        print(f"{band.case.key:36}{band.which:10}{band.over:18}{band.most:16.2f}{ratio:16.3f}{verdict}", flush=True)
    return held


# --- the baseline --------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, dict[str, figures.Figures]]:
    """Compiler -> case -> figures."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, baseline: dict[str, dict[str, figures.Figures]]) -> None:
    """One case a line, so that a difference of two versions of the file can be read."""
    entries = []
    for compiler, cases in sorted(baseline.items()):
        lines = [f"{json.dumps(case)}: {json.dumps(found)}" for case, found in cases.items()]
        entries.append(f"{json.dumps(compiler)}: {{\n" + ",\n".join(lines) + "\n}")
    path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def judge(base: dict[str, figures.Figures], now: dict[str, figures.Figures], whole: bool, strict: bool) -> bool:
    """Show what changed and say whether the gate is passed; `whole`: `now` has every case that there is."""
    found = changes(base, now)
    worse, better = ([c for c in found if c.grew == grew] for grew in (True, False))
    unknown = [*(now.keys() - base.keys()), *(base.keys() - now.keys() if whole else ())]
    for title, rows in (("WORSE than the baseline:", worse), ("Better than the baseline:", better)):
        if rows:
            print("\n".join([title, _HEADER, *map(str, rows)]))
    if unknown:
        print(f"Cases and baseline differ, `make baseline` brings them together: {', '.join(sorted(unknown))}")
    if better:
        print("Take an improvement over on purpose: `make baseline`, and commit perf/baseline.json.")
    if not found and not unknown:
        print(f"{len(now)} cases are as the baseline says.")
    return not worse and not unknown and not (strict and better)


def _same_twice(chosen: Sequence[Case], first: dict[str, figures.Figures]) -> bool:
    jax.clear_caches()
    second = figures.measure(chosen[::-1])
    different = [case.key for case in chosen if first[case.key] != second[case.key]]
    for key in different:
        print(f"{key}: {first[key]}, then {second[key]}")
    print("Two runs differ." if different else f"Two runs of {len(chosen)} cases agree in every figure.")
    return not different


def main(arguments: Sequence[str], cases: Sequence[Case] = GATE, bands: Sequence[Band] = BANDS) -> int:
    """0 if the gate is passed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only cases whose name contains one of these, and no ratios")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--update", action="store_true", help="write the baseline instead of comparing with it")
    parser.add_argument("--strict", action="store_true", help="an improvement or a missing baseline fails too")
    parser.add_argument("--twice", action="store_true", help="measure twice and demand the same figures")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases if not options.words or any(word in case.name for word in options.words)]
    compiler, baseline = figures.compiler(), read(options.baseline)
    if not options.update and compiler not in baseline and not options.twice:
        print(f"No baseline for {compiler}; there is one for {'; '.join(baseline) or 'no compiler'}. Not compared.")
        return int(options.strict or not (options.words or bands_hold(bands)))
    now = figures.measure(chosen)
    if options.update:
        write(options.baseline, baseline | {compiler: (baseline.get(compiler, {}) if options.words else {}) | now})
        print(f"{options.baseline.name} has {len(now)} cases of {compiler}.")
        return 0
    if options.twice:
        return int(not _same_twice(chosen, now))
    passed = judge(baseline[compiler], now, whole=not options.words, strict=options.strict)
    passed &= bool(options.words) or bands_hold(bands)
    print("The gate is passed." if passed else "The gate FAILS.")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
