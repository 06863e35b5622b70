"""Refuse a change that makes compiled programs or kernels larger, slower or hungrier than a baseline says.

    python perf/gate.py                `make gate`: programs (perf/shapes.py: GATE) against perf/baseline.json
    python perf/gate.py --rows FILE    `make aot`: kernels that perf/aot has compiled, against perf/baseline-aot.json
    python perf/gate.py softsort       only cases whose name contains one of the words
    python perf/gate.py --strict       an improvement fails too, and so does a compiler without a baseline
    python perf/gate.py --update       write the baseline of these compilers: `make baseline`, `make baseline-aot`

Figures come from compilers, not from a clock, so noise cannot move them; TOLERANCE says how much each may grow. Of
GPU kernels they are registers and spilled bytes, by ptxas; of TPU kernels bundles, those of the innermost loops, and
spilled vector registers, by libtpu's schedule; of all of them the temporary memory of the program around them. A
baseline has one entry for each compiler that it was made with, and figures are only compared with their own: with
another version the gate says so and passes. An improvement beyond the tolerance does not fail, since nobody is worse
off, but it is shown: until the baseline takes it over, a later change may give it up unseen.

A kernel that the baseline lacks is told, and fails where the gate is strict; `--update` writes the fingerprints of the
kernels' programs, too, and a row that is "known" by its own has the baseline's figures. Kernels need nothing but the
standard library, so that the environments with the compilers need not hold more.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BASELINE, KERNELS = HERE / "baseline.json", HERE / "baseline-aot.json"
FINGERPRINTS = "fingerprints-aot.json"
"""Beside the kernels' baseline: compiler -> "target implementation kernel" -> fingerprint of the compiled program."""

Figures = dict[str, dict[str, int]]
"""Part of a case ("forward", "gradient", "solver"; "program", "kernel 1") -> figure -> number."""


# --- the rules -----------------------------------------------------------------------------------------


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
    # Of kernels built ahead of time. Their compilers repeat themselves to the last register.
    "kernels": Tolerance(),
    "spill bytes": Tolerance(),
    "registers": Tolerance(0.03, 2),
    "inner bundles": Tolerance(0.02, 2),
    "bundles": Tolerance(0.05),
    "vector spills": Tolerance(0.0, 2),
}


@dataclass(frozen=True)
class Change:
    """A figure that is not what the baseline says."""

    case: str
    which: str
    figure: str
    base: int
    now: int

    def __str__(self) -> str:
        factor = f"x {self.now / self.base:.2f}" if self.base else "new"
        return f"{self.case:36}{self.which:10}{self.figure:18}{self.base:>16,}{self.now:>16,}{factor:>10}"


_HEADER = f"{'case':36}{'pass':10}{'figure':18}{'baseline':>16}{'now':>16}{'':>10}"


def changes(base: Mapping[str, Figures], now: Mapping[str, Figures]) -> list[Change]:
    """Figures beyond their tolerance, for the cases that both have."""

    def all_figures() -> Iterator[Change]:
        for case in base.keys() & now.keys():
            for which in sorted(base[case].keys() | now[case].keys()):
                was, has = base[case].get(which, {}), now[case].get(which, {})
                for name in [name for name in TOLERANCE if name in was or name in has]:
                    yield Change(case, which, name, was.get(name, 0), has.get(name, 0))

    beyond = [c for c in all_figures() if abs(c.now - c.base) > TOLERANCE[c.figure].allows(c.base)]
    return sorted(beyond, key=lambda c: (c.case, c.which, -c.now / max(c.base, 1)))


# --- a baseline ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """A file: compiler -> case -> figures; the command that writes it; which of its cases are asked for."""

    path: Path
    command: str
    asked: Callable[[str], bool] = lambda name: True

    def read(self) -> dict[str, dict[str, Any]]:
        """What it holds; nothing where there is no file."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def update(self, now: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what was found; what was not asked for stays.

        One case a line, so that a difference of two versions of the file can be read.
        """
        found = self.read()
        for compiler, cases in now.items():
            before = found.get(compiler, {})
            kept = {name: value for name, value in before.items() if not self.asked(name)} | cases
            order = [*before, *cases] if len(kept) > len(cases) else cases
            found[compiler] = {name: kept[name] for name in dict.fromkeys(order) if name in kept}
        entries = []
        for compiler, cases in sorted(found.items()):
            lines = [f"{json.dumps(case)}: {json.dumps(figures)}" for case, figures in cases.items()]
            entries.append(f"{json.dumps(compiler)}: {{\n" + ",\n".join(lines) + "\n}")
        self.path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")

    def without(self, compiler: str) -> str:
        """What to say where there is none for a compiler."""
        return f"No baseline for {compiler}; there is one for {'; '.join(self.read()) or 'no compiler'}. Not compared."

    def judge(self, compiler: str, now: Mapping[str, Figures], strict: bool) -> bool:
        """Show what changed and say whether the gate is passed."""
        base = {name: figures for name, figures in self.read()[compiler].items() if self.asked(name)}
        found = changes(base, now)
        worse, better = [c for c in found if c.now > c.base], [c for c in found if c.now < c.base]
        unknown = base.keys() ^ now.keys()
        for title, rows in (("WORSE than the baseline:", worse), ("Better than the baseline:", better)):
            if rows:
                print("\n".join([title, _HEADER, *map(str, rows)]))
        if unknown:
            print(f"Cases and baseline differ, `{self.command}` brings them together: {', '.join(sorted(unknown))}")
        if better:
            print(f"Take an improvement over on purpose: `{self.command}`, and commit perf/{self.path.name}.")
        if not found and not unknown:
            print(f"{len(now)} cases are as the baseline says.")
        return not worse and not unknown and not (strict and better)


# --- kernels -------------------------------------------------------------------------------------------


def figures_of(row: dict) -> Figures:
    """One compiled kernel program's: of itself, and of each of its kernels, the largest first."""
    kernels = row.get("schedules") or [{"registers": count} for count in sorted(row["registers"], reverse=True)]
    program = {"temporary bytes": row["temp"], "kernels": len(kernels)}
    if "spills" in row:
        program["spill bytes"] = row["spills"]
    return {"program": program, **{f"kernel {place}": found for place, found in enumerate(kernels, 1)}}


def judge_kernels(options: argparse.Namespace, path: Path, asked: Callable[[str], bool]) -> bool:
    """Is every kernel in the rows of a table as good as the baseline, where it is asked for?"""
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    name_of = lambda row: f"{row['target']} {row['implementation']} {row['kernel']}"
    rows = [row for row in rows if asked(name_of(row))]
    targets = {f"{row['target']} {row['implementation']}" for row in rows}
    # Targets that were not compiled stay as they are, neither judged nor written.
    file = Baseline(path, "make baseline-aot", lambda name: asked(name) and " ".join(name.split()[:2]) in targets)
    baseline, passed = file.read(), bool(rows)
    now, prints = defaultdict(dict), defaultdict(dict)
    for row in rows:
        name = name_of(row)
        known = baseline.get(row.get("compiler"), {}).get(name)
        if row.get("known") and known is None:
            row["error"] = f"has a fingerprint, but no figures in {path.name}: `{file.command}`"
        if "error" in row:
            print(f"{name}: {row['error']}")
            passed = False
            continue
        now[row["compiler"]][name] = known if row.get("known") else figures_of(row)
        prints[row["compiler"]][name] = row["fingerprint"]
    if options.update:
        file.update(now)
        Baseline(path.with_name(FINGERPRINTS), file.command, file.asked).update(prints)
        print(f"{path.name} has {sum(map(len, now.values()))} kernels of {'; '.join(now)}.")
        return True
    for compiler, cases in now.items():
        if compiler not in baseline:
            print(file.without(compiler))
            passed &= not options.strict
            continue
        if new := cases.keys() - baseline[compiler].keys():
            print(f"Not in the baseline: {', '.join(sorted(new))}. `{file.command}` takes them over.")
        known = {name: cases[name] for name in cases if options.strict or name not in new}
        passed &= file.judge(compiler, known, options.strict)
    return passed


# --- programs ------------------------------------------------------------------------------------------


def judge_programs(
    options: argparse.Namespace, path: Path, asked: Callable[[str], bool], cases: Sequence, bands: Sequence
) -> bool:
    """Is every program as good as the baseline, where it is asked for, and does every band hold?"""
    import figures

    compiler, file = figures.compiler(), Baseline(path, "make baseline", asked)
    chosen = [case for case in cases if asked(case.key)]
    if options.update:
        file.update({compiler: figures.measure(chosen)})
        print(f"{path.name} has {len(chosen)} cases of {compiler}.")
        return True
    if compiler in file.read():
        passed = file.judge(compiler, figures.measure(chosen), options.strict)
    else:
        print(file.without(compiler))
        passed = not options.strict
    if bands and not options.words:
        print(f"\n{'ratio within this run':36}{'pass':10}{'':18}{'at most':>16}{'now':>16}")
        held = [band.holds() for band in bands]
        passed &= all(held)
    return passed


def main(arguments: Sequence[str], cases: Sequence | None = None, bands: Sequence | None = None) -> int:
    """0 if the gate is passed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only cases whose name contains one of these, and no ratios")
    parser.add_argument("--rows", type=Path, help="judge kernels by what perf/aot/table.py --json has written")
    parser.add_argument("--baseline", type=Path, help="another file")
    parser.add_argument("--update", action="store_true", help="write the baseline instead of comparing with it")
    parser.add_argument("--strict", action="store_true", help="an improvement or a missing baseline fails too")
    options = parser.parse_args(arguments)
    asked = lambda name: not options.words or any(word in name for word in options.words)
    if options.rows:
        passed = judge_kernels(options, options.baseline or KERNELS, asked)
    else:
        if cases is None or bands is None:
            from bands import BANDS as bands  # as late as what needs JAX
            from shapes import GATE as cases
        passed = judge_programs(options, options.baseline or BASELINE, asked, cases, bands)
    what = "of the kernels " if options.rows else ""
    if options.update:
        return 0
    print(f"The gate {what}is passed." if passed else f"The gate {what}FAILS.")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
