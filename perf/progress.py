"""A progress bar: tqdm's, and a plain line for each item where tqdm is not installed."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Lines:
    """What the benchmarks use of tqdm, in lines on stderr."""

    def __init__(self, items: Iterable[Any], unit: str = "", **_: Any):
        self.items, self.unit = list(items), unit

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(self.items, 1):
            print(f"{self.unit} {number} of {len(self.items)}", file=sys.stderr, flush=True)
            yield item

    def set_postfix_str(self, text: str) -> None:
        """Say what is at work."""
        print(f"  {text}", file=sys.stderr, flush=True)

    @staticmethod
    def write(text: str) -> None:
        """A line of the result."""
        print(text, flush=True)


try:
    from tqdm import tqdm as tqdm
except ImportError:
    tqdm = Lines
