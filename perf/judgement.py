"""Figures against a baseline: what may grow by how much, and the table that says what grew.

Nothing but the standard library: `gate.py` judges compiled programs by it, `aot_gate.py` kernels built ahead of time.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, dict[str, int]]
"""Part of a case ("forward", "gradient", "solver"; "program", "kernel 1") -> figure -> number."""


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

    @property
    def grew(self) -> bool:
        """Is it worse?"""
        return self.now > self.base

    def __str__(self) -> str:
        factor = f"x {self.now / self.base:.2f}" if self.base else "new"
        return f"{self.case:36}{self.which:10}{self.figure:18}{self.base:>16,}{self.now:>16,}{factor:>10}"


_HEADER = f"{'case':36}{'pass':10}{'figure':18}{'baseline':>16}{'now':>16}{'':>10}"


def changes(base: dict[str, Figures], now: dict[str, Figures]) -> list[Change]:
    """Figures beyond their tolerance, for the cases that both have."""

    def all_figures() -> Iterator[Change]:
        for case in base.keys() & now.keys():
            for which in sorted(base[case].keys() | now[case].keys()):
                was, has = base[case].get(which, {}), now[case].get(which, {})
                for name in [name for name in TOLERANCE if name in was or name in has]:
                    yield Change(case, which, name, was.get(name, 0), has.get(name, 0))

    beyond = [c for c in all_figures() if abs(c.now - c.base) > TOLERANCE[c.figure].allows(c.base)]
    return sorted(beyond, key=lambda c: (c.case, c.which, -c.now / max(c.base, 1)))


@dataclass(frozen=True)
class Baseline:
    """A file: compiler -> case -> figures; and the command that writes it."""

    path: Path
    command: str

    def read(self) -> dict[str, dict[str, Figures]]:
        """What it holds; nothing where there is no file."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def write(self, found: dict[str, dict[str, Figures]]) -> None:
        """One case a line, so that a difference of two versions of the file can be read."""
        entries = []
        for compiler, cases in sorted(found.items()):
            lines = [f"{json.dumps(case)}: {json.dumps(figures)}" for case, figures in cases.items()]
            entries.append(f"{json.dumps(compiler)}: {{\n" + ",\n".join(lines) + "\n}")
        self.path.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")

    def without(self, compiler: str) -> str:
        """What to say where there is none for a compiler."""
        return f"No baseline for {compiler}; there is one for {'; '.join(self.read()) or 'no compiler'}. Not compared."

    def judge(self, base: dict[str, Figures], now: dict[str, Figures], whole: bool, strict: bool) -> bool:
        """Show what changed and say whether the gate is passed.

        `whole`: `now` has every case that there is, so that one which only the baseline has is gone.
        """
        found = changes(base, now)
        worse, better = ([c for c in found if c.grew == grew] for grew in (True, False))
        unknown = [*(now.keys() - base.keys()), *(base.keys() - now.keys() if whole else ())]
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
