"""Value-and-gradient of this package against the released softjax, each in its own environment, in turns.

    python perf/peers/release.py                     every case
    python perf/peers/release.py --python PATH       the release's interpreter (default: .venv-release/bin/python)
    python perf/peers/release.py --json FILE         append one line for each case

`make peers` builds the environment first. Where both mean the same by softness, results are compared before they are
timed, and unequal ones are refused. Where they do not (`worker.CASES` says why), the difference is shown, and for
transport each side's column sums.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
from worker import CASES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Worker:
    """A process that has compiled one case and waits to be timed."""

    def __init__(self, python: str, case: str, path: str):
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        )
        self.report = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended without a result.")  # pyright: ignore
        return line

    def seconds(self) -> float:
        """One call's time."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare(case: str, release_python: str) -> dict:
    """Medians of calls in turns; the results' difference where they can be compared."""
    ours, theirs = Worker(sys.executable, case, str(ROOT)), Worker(release_python, case, "")
    result: dict = {"case": case, **CASES[case]}
    difference = float(np.max(np.abs(np.subtract(ours.report["values"], theirs.report["values"]))))
    if CASES[case].get("same") and difference > 1e-4:
        raise SystemExit(f"{case}: the results differ by {difference}, and are not timed.")
    result["difference"] = difference
    times: list[list[float]] = [[], []]
    for _ in range(5):
        for worker, record in zip((ours, theirs), times, strict=True):
            record.append(worker.seconds())
    for worker, record, name in zip((ours, theirs), times, ("ours", "release"), strict=True):
        worker.close()
        details = {key: worker.report[key] for key in ("dtype", "finite", "marginal_error") if key in worker.report}
        result[name] = {"seconds": median(record), **details}
    return result


def main() -> None:
    """Compare every case and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / ".venv-release" / "bin" / "python"))
    parser.add_argument("--json", help="append the results to this file")
    options = parser.parse_args()
    if not Path(options.python).exists():
        raise SystemExit(f"{options.python} does not exist: `make peers` builds it.")
    print(f"{'case':18}{'release ms':>12}{'ours ms':>10}{'ratio':>8}   results")
    for case in CASES:
        found = compare(case, options.python)
        ours, release = found["ours"], found["release"]
        shown = f"differ by {found['difference']:.1e}, gradients {'finite' if ours['finite'] else 'NOT finite'}"
        if "marginal_error" in ours:
            shown += f", marginal error {ours['marginal_error']:.1e} in {ours['dtype']}, "
            shown += f"{release['marginal_error']:.1e} in {release['dtype']} there"
        ratio = release["seconds"] / ours["seconds"]
        print(
            f"{case:18}{1e3 * release['seconds']:12.1f}{1e3 * ours['seconds']:10.1f}{ratio:8.1f}   {shown}", flush=True
        )
        if options.json:
            with open(options.json, "a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
