"""Temporary memory of value and gradient at two sizes, by the compiler: linear in n where they differ as the sizes do.

python perf/memory.py                print a line for each case (perf/shapes.py: MEMORY)
python perf/memory.py --save         write them to perf/results/memory-<machine>.jsonl
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
from record import append, destination
from shapes import MEMORY, MEMORY_SIZES, Case
from timing import compiled, temporary_bytes
from tqdm import tqdm


def measure(case: Case) -> dict:
    """Bytes at each size."""
    cases = [replace(case, shape=(n,)) for n in MEMORY_SIZES]
    abstract = [jax.ShapeDtypeStruct(one.shape, "float32") for one in cases]
    programs = [compiled(one.value_and_gradient(), x)[0] for one, x in zip(cases, abstract, strict=True)]
    return {
        "case": case.name,
        "shape": [MEMORY_SIZES[-1]],
        "sizes": list(MEMORY_SIZES),
        "temporary_bytes": [temporary_bytes(program) for program in programs],
    }


def main(arguments: Sequence[str]) -> None:
    """Compile, print, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="append the results to this file, one JSON object a line")
    parser.add_argument("--save", action="store_true", help="write them to perf/results/memory-<machine>.jsonl")
    options = parser.parse_args(arguments)
    path = destination(options.json, options.save, "memory-")
    print(f"{'temporary bytes':24}" + "".join(f"{n:>14,}" for n in MEMORY_SIZES) + f"{'growth':>9}")
    with ThreadPoolExecutor(2) as pool:
        for record in tqdm(pool.map(measure, MEMORY), total=len(MEMORY), unit="case", leave=False, disable=None):
            small, large = record["temporary_bytes"]
            tqdm.write(f"{record['case']:24}{small:14,}{large:14,}{large / small:9.2f}")
            if path:
                append(path, record)


if __name__ == "__main__":
    main(sys.argv[1:])
