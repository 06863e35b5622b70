"""Kernels built ahead of time against perf/baseline-aot.json: what `make aot` ends with; `make baseline-aot` accepts.

    python perf/aot_gate.py ROWS.jsonl            judge what perf/aot/table.py --json has written
    python perf/aot_gate.py ROWS.jsonl --update   write the baseline for its compilers
    python perf/aot_gate.py ROWS.jsonl --strict   an improvement fails too, and so do compilers without a baseline

Of GPU kernels registers and spilled bytes, by ptxas; of TPU kernels bundles, those of the innermost loops, and spilled
vector registers, by libtpu's schedule; of all of them the temporary memory of the program around them. They depend on
the compilers alone, each of which has its own entry; `judgement.TOLERANCE` says how much each may grow. A kernel that
the baseline has and the rows have not is an error; one that is new is told, and fails where the gate is strict.

`--update` also writes the programs' fingerprints. A row that is "known" by its own has the baseline's figures.

Nothing but the standard library, so that the environments with the compilers need not hold more.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from judgement import Baseline, Figures

T = TypeVar("T")
BASELINE = Path(__file__).resolve().parent / "baseline-aot.json"
FINGERPRINTS = "fingerprints-aot.json"
"""Beside the baseline: compiler -> "target implementation kernel" -> fingerprint of the program that was compiled."""


def figures(row: dict) -> Figures:
    """One compiled program's: of itself, and of each of its kernels, the largest first."""
    kernels = row.get("schedules") or [{"registers": count} for count in sorted(row["registers"], reverse=True)]
    program = {"temporary bytes": row["temp"], "kernels": len(kernels)}
    if "spills" in row:
        program["spill bytes"] = row["spills"]
    return {"program": program, **{f"kernel {place}": found for place, found in enumerate(kernels, 1)}}


def name_of(row: dict) -> str:
    """What a program is called in the baseline."""
    return f"{row['target']} {row['implementation']} {row['kernel']}"


def by_compiler(rows: Sequence[dict], value: Callable[[dict], T]) -> dict[str, dict[str, T]]:
    """Compiler -> "target implementation kernel" -> value, of the rows without an error."""
    found: dict[str, dict[str, T]] = defaultdict(dict)
    for row in rows:
        if "error" not in row:
            found[row["compiler"]][name_of(row)] = value(row)
    return found


def main(arguments: Sequence[str]) -> int:
    """0 if the gate is passed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="what the table wrote")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--update", action="store_true", help="write the baseline instead of comparing with it")
    parser.add_argument("--strict", action="store_true", help="an improvement or a missing baseline fails too")
    parser.add_argument("--part", action="store_true", help="ROWS is a part: what only the baseline has is not missed")
    options = parser.parse_args(arguments)
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    file = Baseline(options.baseline, "make baseline-aot")
    baseline = file.read()
    for row in rows:
        if row.get("known") and name_of(row) not in baseline.get(row["compiler"], {}):
            row["error"] = f"has a fingerprint, but no figures in {options.baseline.name}: `{file.command}`"
    now = by_compiler(rows, lambda row: baseline[row["compiler"]][name_of(row)] if row.get("known") else figures(row))
    targets = {f"{row['target']} {row['implementation']}" for row in rows}
    # Targets that were not asked for stay as they are, neither judged nor written.
    measured = lambda cases, whether: {
        k: v for k, v in cases.items() if (" ".join(k.split()[:2]) in targets) == whether
    }
    merged = lambda before, found: (
        before | {name: measured(before.get(name, {}), False) | cases for name, cases in found.items()}
    )
    if options.update:
        file.write(merged(baseline, now))
        prints = Baseline(options.baseline.with_name(FINGERPRINTS), file.command)
        prints.write(merged(prints.read(), by_compiler(rows, lambda row: row["fingerprint"])))
        print(f"{options.baseline.name} has {sum(map(len, now.values()))} kernels of {'; '.join(now)}.")
        return 0
    passed = bool(now)
    for row in rows:
        if "error" in row:
            print(f"{name_of(row)}: {row['error']}")
            passed = False
    for compiler, cases in now.items():
        if compiler in baseline:
            base = measured(baseline[compiler], True)
            if new := cases.keys() - base.keys():
                print(f"Not in the baseline: {', '.join(sorted(new))}. `{file.command}` takes them over.")
            known = cases if options.strict else {name: cases[name] for name in cases if name in base}
            passed &= file.judge(base, known, not options.part, options.strict)
        else:
            print(file.without(compiler))
            passed &= not options.strict
    print("The gate of the kernels is passed." if passed else "The gate of the kernels FAILS.")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
