"""Refuse a change that makes compiled programs or kernels larger, slower or hungrier than a baseline says.

    python perf/gate.py                `make gate`: programs (perf/shapes.py: GATE) against perf/baseline.json
    python perf/gate.py softsort       only cases whose name contains one of the words, and no times
    python perf/gate.py --strict       an improvement fails too, and so does what has no baseline
    python perf/gate.py --update       write the baseline of this compiler: `make baseline`

`make aot` judges kernels by the same rules against perf/baseline-aot.json. Figures come from compilers, not from a
clock, so noise cannot move them: of programs what XLA says, of GPU kernels registers and spilled bytes, by ptxas, of
TPU kernels bundles and spilled vector registers, by libtpu's schedule. They are only compared with those of the same
compilers: with others the gate says so and passes. An improvement does not fail, but it is shown: until the baseline
takes it over, a later change may give it up unseen. Kernels need nothing but the standard library.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

BASELINE = Path(__file__).resolve().parent / "baseline.json"
KERNELS = BASELINE.with_name("baseline-aot.json")
FINGERPRINTS = "fingerprints-aot.json"
"""Beside the kernels' baseline: compiler -> "target implementation kernel" -> fingerprint of the compiled program."""

Figures = Mapping[str, Mapping[str, int]]
"""Part of a case ("forward", "gradient", "solver"; "program", "kernel 1") -> figure -> number."""

TOLERANCE = {
    "temporary bytes": (0.02, 1_024),
    "flops": (0.02, 0),
    "bytes accessed": (0.02, 0),
    "fusions": (0.05, 1),
    "while loops": (0.0, 0),
    "sorts": (0.0, 0),
    "custom calls": (0.0, 0),
    "instructions": (0.05, 0),
    # Where it stops depends on the last digits of sums, and those on the processor; two rows may stop one later.
    "iterations": (0.0, 2),
    # Of kernels built ahead of time. Their compilers repeat themselves to the last register.
    "kernels": (0.0, 0),
    "spill bytes": (0.0, 0),
    "registers": (0.03, 2),
    "inner bundles": (0.02, 2),
    "bundles": (0.05, 0),
    "vector spills": (0.0, 2),
}
"""By how much a figure may grow before it counts: a fraction of the baseline, or a number where that is more."""


class Change(NamedTuple):
    """A figure that is not what the baseline says."""

    case: str
    which: str
    figure: str
    base: int
    now: int

    def __str__(self) -> str:
        factor = f"x {self.now / self.base:.2f}" if self.base else "new"
        return f"{self.case:36}{self.which:10}{self.figure:18}{self.base:>16,}{self.now:>16,}{factor:>10}"


def changes(base: Mapping[str, Figures], now: Mapping[str, Figures]) -> list[Change]:
    """Figures beyond their tolerance, for the cases that both have."""
    found = []
    for case in sorted(base.keys() & now.keys()):
        for which in sorted(base[case].keys() | now[case].keys()):
            was, has = base[case].get(which, {}), now[case].get(which, {})
            for figure in was | has:
                change = Change(case, which, figure, was.get(figure, 0), has.get(figure, 0))
                fraction, number = TOLERANCE[figure]
                if abs(change.now - change.base) > max(fraction * change.base, number):
                    found.append(change)
    return found


@dataclass(frozen=True)
class Baseline:
    """A file: compiler -> case -> figures; the command that writes it; which of its cases are asked for."""

    path: Path
    command: str = ""
    asked: Callable[[str], bool] = lambda name: True

    def read(self) -> dict[str, dict[str, Any]]:
        """What it holds; nothing where there is no file."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def update(self, now: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what was found, one case a line; what was not asked for stays."""
        found = self.read()
        for compiler, cases in now.items():
            before = found.get(compiler, {})
            stays = {name for name in before if not self.asked(name)}
            order = dict.fromkeys([*before, *cases]) if stays else cases
            found[compiler] = {n: cases.get(n, before.get(n)) for n in order if n in cases or n in stays}
        entries = []
        for compiler, cases in sorted(found.items()):
            lines = [f"{json.dumps(case)}: {json.dumps(figures)}" for case, figures in cases.items()]
            entries.append(f"{json.dumps(compiler)}: {{\n" + ",\n".join(lines) + "\n}")
        self.path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")

    def judge(self, compiler: str, measure: Callable[[], Mapping[str, Figures]], strict: bool, new: bool) -> bool:
        """Show what changed and say whether the gate is passed; `new`: a case that has no figures yet passes."""
        if compiler not in (known := self.read()):
            print(f"No baseline for {compiler}; there is one for {'; '.join(known) or 'no compiler'}. Not compared.")
            return not strict
        base, now = {name: value for name, value in known[compiler].items() if self.asked(name)}, measure()
        found = changes(base, now)
        worse, better = [c for c in found if c.now > c.base], [c for c in found if c.now < c.base]
        header = f"{'case':36}{'pass':10}{'figure':18}{'baseline':>16}{'now':>16}"
        for title, rows in (("WORSE than the baseline:", worse), ("Better than the baseline:", better)):
            if rows:
                print("\n".join([title, header, *map(str, rows)]))
        added, gone = now.keys() - base.keys(), base.keys() - now.keys()
        for title, names in (("Not in the baseline", added), ("In the baseline alone", gone)):
            if names:
                print(f"{title}: {', '.join(sorted(names))}. `{self.command}` brings them together.")
        if better:
            print(f"Take an improvement over on purpose: `{self.command}`, and commit perf/{self.path.name}.")
        if not found and not added and not gone:
            print(f"{len(now)} cases are as the baseline says.")
        return not (worse or gone or (added and not new) or (strict and (better or added)))


def of_kernels(row: dict) -> Figures:
    """The figures of a compiled program: of itself, and of each of its kernels, the largest first."""
    kernels = row.get("schedules") or [{"registers": count} for count in sorted(row["registers"], reverse=True)]
    program = {"temporary bytes": row["temp"], "kernels": len(kernels)}
    if "spills" in row:
        program["spill bytes"] = row["spills"]
    return {"program": program, **{f"kernel {place}": found for place, found in enumerate(kernels, 1)}}


def judge_kernels(rows: Sequence[dict], options: argparse.Namespace, asked: Callable[[str], bool]) -> bool:
    """Is every kernel of the targets that were compiled as good as the baseline, where it is asked for?

    A row that is "known" by its program's fingerprint, which an update writes, has the baseline's figures.
    """
    path, targets = options.baseline or KERNELS, {row["target"] for row in rows}
    file = Baseline(path, "make baseline-aot", lambda name: asked(name) and name.split()[0] in targets)
    known, now, prints, passed = file.read(), defaultdict(dict), defaultdict(dict), bool(rows)
    for row in rows:
        name = f"{row['target']} {row['implementation']} {row['kernel']}"
        before = known.get(row.get("compiler"), {}).get(name)
        if row.get("known") and before is None:
            row["error"] = f"has a fingerprint, but no figures in {path.name}: `{file.command}`"
        if "error" in row:
            print(f"{name}: {row['error']}")
            passed = False
        else:
            now[row["compiler"]][name] = before if row.get("known") else of_kernels(row)
            prints[row["compiler"]][name] = row["fingerprint"]
    if options.update:
        file.update(now)
        Baseline(path.with_name(FINGERPRINTS), asked=file.asked).update(prints)
    else:
        for compiler, cases in now.items():
            passed &= file.judge(compiler, lambda cases=cases: cases, options.strict, new=True)
    return passed


def judge_programs(options: argparse.Namespace, cases: Sequence, bands: Sequence) -> bool:
    """Is every program as good as the baseline, where it is asked for, and does every band hold?"""
    import figures

    asked = lambda name: not options.words or any(word in name for word in options.words)
    file, compiler = Baseline(options.baseline or BASELINE, "make baseline", asked), figures.compiler()
    measure = lambda: figures.measure([case for case in cases if asked(case.key)])
    if options.update:
        file.update({compiler: measure()})
        return True
    passed = file.judge(compiler, measure, options.strict, new=False)
    if bands and not options.words:
        print(f"\n{'ratio within this run':36}{'pass':28}{'at most':>16}{'now':>16}")
        held = [band.holds() for band in bands]
        passed &= all(held)
    return passed


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of the options of both gates."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--baseline", type=Path, help="another file")
    found.add_argument("--update", action="store_true", help="write the baseline instead of comparing with it")
    found.add_argument("--strict", action="store_true", help="an improvement or a missing baseline fails too")
    return found


def main(arguments: Sequence[str], cases: Sequence | None = None, bands: Sequence | None = None) -> int:
    """0 if the gate is passed, else 1."""
    options = parser(__doc__)
    options.add_argument("words", nargs="*", help="only cases whose name contains one of these, and no times")
    if cases is None or bands is None:
        from figures import BANDS as bands  # as late as what needs JAX
        from shapes import GATE as cases
    passed = judge_programs(options.parse_args(arguments), cases, bands)
    print("The gate is passed." if passed else "The gate FAILS.")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
