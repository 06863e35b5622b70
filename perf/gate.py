"""Refuse a change that makes compiled programs larger, slower or hungrier: `make gate`, and `make baseline` to accept.

    python perf/gate.py                the figures of every case (perf/shapes.py: GATE) against perf/baseline.json
    python perf/gate.py softsort       cases whose name contains one of the words
    python perf/gate.py --twice        measure twice and demand the same figures
    python perf/gate.py --strict       an improvement fails too, and so does a compiler without a baseline
    python perf/gate.py --update       write perf/baseline.json for this compiler

Figures come from the compiler, not from a clock, so noise cannot move them; `judgement.TOLERANCE` says how much each
may grow. The baseline has one entry for each compiler that it was made with, and figures are only compared with their
own: with another version the gate says so and passes. An improvement beyond the tolerance does not fail, since nobody
is worse off, but it is shown: until `make baseline` takes it over, a later change may give it up unseen.

BANDS are the only times: ratios within one run, with so wide a limit that what crosses it is no noise.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import figures
import jax
from judgement import Baseline, Figures
from shapes import GATE, Case
from timing import compiled, interleaved, ratios

BASELINE = Path(__file__).resolve().parent / "baseline.json"


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


# --- the command ---------------------------------------------------------------------------------------


def _same_twice(chosen: Sequence[Case], first: dict[str, Figures]) -> bool:
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
    file = Baseline(options.baseline, "make baseline")
    compiler, baseline = figures.compiler(), file.read()
    if not options.update and compiler not in baseline and not options.twice:
        print(file.without(compiler))
        return int(options.strict or not (options.words or bands_hold(bands)))
    now = figures.measure(chosen)
    if options.update:
        merged = (baseline.get(compiler, {}) if options.words else {}) | now
        file.write(baseline | {compiler: {case.key: merged[case.key] for case in cases if case.key in merged}})
        print(f"{options.baseline.name} has {len(now)} cases of {compiler}.")
        return 0
    if options.twice:
        return int(not _same_twice(chosen, now))
    passed = file.judge(baseline[compiler], now, whole=not options.words, strict=options.strict)
    passed &= bool(options.words) or bands_hold(bands)
    print("The gate is passed." if passed else "The gate FAILS.")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
