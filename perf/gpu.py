"""Kernels against plain JAX and against the dense definition, on the GPU at hand: `make gpu` runs it after the tests.

    python perf/gpu.py                         write perf/results/kernels-<machine>.jsonl
    python perf/gpu.py argsort                 measure the cases that contain a word, and add them to that file
    python perf/gpu.py --dry-run               tiny sizes by the interpreter on any machine; writes nothing

Prints a line for each case and program, forward and value with gradient: the median of each candidate in milliseconds,
called in turns, and how many times less the kernel takes than plain JAX ("gain") and than the definition; beside them
JAX's hard operator. The file also has the seconds of each GPU kernel in a call.
"""

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else XLA prints the programs that do not fit

import jax
from gpu_check import missing
from progress import tqdm
from record import RESULTS, append, machine
from sweeps import Call, implementations
from timing import compiled_beside, interleaved, kernel_seconds, ratios, temporary_bytes

NAMES = ("kernel", "xla", "dense", "hard")
HEADER = f"{'case':46}{'program':>10}{''.join(f'{name} ms'.rjust(12) for name in NAMES)}{'gain':>8}{'over dense':>12}"


def cases(tiny: bool) -> list[Call]:
    """What is measured."""
    if tiny:
        return [Call("apply", "ot", 2, 130, 2), Call("sort", "neuralsort", 1, 200), Call("argsort", "softsort", 1, 64)]
    return [
        Call("apply", "ot", 4096, 1024, 32),
        Call("apply", "ot", 256, 16384, 32),
        Call("argsort", "softsort", 64, 2048),
        Call("argsort", "neuralsort", 64, 2048),
        Call("sort", "neuralsort", 64, 2048),
    ]


def measure(call: Call, implementation: str, seconds: float) -> dict:
    """Seconds of the kernel, plain JAX, the definition and the hard operator, forward and with the gradient.

    Also who did not run, and why.
    """
    x = call.keys()
    found: dict = {"case": str(call), "shape": [call.batch, call.n], "k": call.k, "method": call.method}
    found |= {"implementation": implementation, "seconds": {}, "kernel_seconds": {}, "temporary_bytes": {}}
    refused = found["refused"] = {}
    kinds = {"forward": call.forward, "gradient": call.function}

    def lowered(program, name):
        if name == "hard":
            return jax.jit(call.hard if program == "forward" else call.hard_both).lower(x)
        return jax.jit(kinds[program](implementation if name == "kernel" else name)).lower(x)

    programs = ((p, name) for p in kinds for name in NAMES)
    built = compiled_beside((key, functools.partial(lowered, *key)) for key in programs)
    for program in kinds:
        candidates, results = {}, {}
        for name in NAMES:
            function = built[program, name]
            try:
                if isinstance(function, Exception):
                    raise function
                results[name] = jax.block_until_ready(function(x))
                candidates[name] = function, (x,)
            except Exception as error:  # the definition's n x n rows do not fit, and the line says so
                refused[f"{name} {program}"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        if program == "gradient" and {"kernel", "xla"} <= results.keys():
            if (wrong := call.disagreement(results["kernel"], results["xla"])) is not None:
                refused["kernel parity"] = wrong
        del results
        found["temporary_bytes"][program] = {name: temporary_bytes(of) for name, (of, _) in candidates.items()}
        found["seconds"][program] = interleaved(candidates, 11, seconds)
        found["kernel_seconds"][program] = {name: kernel_seconds(*candidate) for name, candidate in candidates.items()}
    return found


def lines(record: dict) -> list[str]:
    """A measurement as lines under HEADER."""
    found = []
    for program, seconds in record["seconds"].items():
        times = [f"{1e3 * median(seconds[name]):12.3f}" if name in seconds else f"{'-':>12}" for name in NAMES]
        gains = [
            f"{median(ratios(seconds[name], seconds['kernel'])):{width}.2f}"
            if {name, "kernel"} <= seconds.keys()
            else f"{'-':>{width}}"
            for name, width in (("xla", 8), ("dense", 12))
        ]
        found.append(f"{record['case']:46}{program:>10}{''.join(times)}{''.join(gains)}")
    return found + [f"    {who}: {why}" for who, why in record["refused"].items()]


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 where a kernel did not run or did not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only cases that contain one of these; the file keeps what it has")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes by the interpreter; writes nothing")
    parser.add_argument("--implementation", help="default: the one that is chosen for this GPU")
    parser.add_argument("--seconds", type=float, default=4.0, help="start no round of a case after this long")
    options = parser.parse_args(arguments)
    if not options.dry_run and (reason := missing()) is not None:
        print(reason)
        return 1
    implementation = options.implementation or ("pallas_interpret" if options.dry_run else implementations()[0])
    path = None if options.dry_run else RESULTS / f"kernels-{machine()}.jsonl"
    if path is not None and not options.words:
        path.unlink(missing_ok=True)
    chosen = [c for c in cases(options.dry_run) if not options.words or any(word in str(c) for word in options.words)]
    print(f"{implementation} on {jax.devices()[0].device_kind}\n{HEADER}")
    wrong = False
    for call in (bar := tqdm(chosen, unit="case", leave=False, disable=None)):
        bar.set_postfix_str(str(call))
        record = measure(call, implementation, options.seconds)
        wrong |= any(who.startswith("kernel") for who in record["refused"])
        bar.write("\n".join(lines(record)))
        sys.stdout.flush()
        if path is not None:
            append(path, record)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
