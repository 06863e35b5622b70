"""The frame of every measurement: choose among what there is, measure, show, and save."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from record import RESULTS, machine, save
from tables import Table


@dataclass(frozen=True)
class Measurement:
    """What is measured, by name; how, from an item and the --seconds; and the table of the records."""

    items: Mapping[str, Any]
    measure: Callable[[Any, float], Iterable[dict]]
    table: Table
    prefix: str = ""
    """Of the file in perf/results."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of the options that every measurement has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("words", nargs="*", help="only what has one of these in its name; --save keeps the others")
    found.add_argument("--save", action="store_true", help="write records to perf/results/<table>-<machine>.jsonl")
    found.add_argument("--seconds", type=float, default=4.0, help="start no round of a case after this long")
    return found


def run(what: Measurement, options: argparse.Namespace) -> list[dict]:
    """The records of what is asked for, shown and saved one after the other."""
    words = options.words
    chosen = [item for name, item in what.items.items() if not words or any(word in name for word in words)]
    path = RESULTS / f"{what.prefix}{machine()}.jsonl"
    if options.save and not words:
        path.unlink(missing_ok=True)
    if chosen:
        print(what.table.line(what.table.header), flush=True)
    found = []
    for item in chosen:
        records = list(what.measure(item, options.seconds))
        print("\n".join(what.table.lines(records)), flush=True)
        for record in records if options.save else ():
            save(path, record)
        found += records
    return found
