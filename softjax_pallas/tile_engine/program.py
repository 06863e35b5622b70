"""What a kernel body may ask of its program.

A program owns a block of rows and visits tiles of columns ("by rows"), or owns a block of columns and visits tiles of
rows. Bodies are written once; `portable.py` and `mosaic_gpu.py` provide the programs.
"""

import abc
from typing import Any

from .maths import Lanes, Value


class Program(Lanes):
    """One program of the grid: where it is, and how it loads and stores. Values are float32."""

    tiles: int
    """How many tiles it visits."""
    by_rows: bool
    """Whether it owns rows."""

    @abc.abstractmethod
    def rows(self, ref: Any, channel: int = 0, tile: Value | None = None) -> Value:
        """A value per row from ref (channels, rows): of the own block, or of a tile of rows."""

    @abc.abstractmethod
    def columns(self, ref: Any, channel: int = 0, tile: Value | None = None) -> Value:
        """A value per column from ref (channels, columns)."""

    @abc.abstractmethod
    def tile(self, ref: Any, tile: Value) -> Value:
        """The own block's part of a dense array in a visited tile."""

    @abc.abstractmethod
    def scalar(self, ref: Any) -> Value:
        """A value per batch row."""

    @abc.abstractmethod
    def put_rows(self, ref: Any, channel: int, v: Value) -> None:
        """Store a value per row of the own block."""

    @abc.abstractmethod
    def put_columns(self, ref: Any, channel: int, v: Value) -> None:
        """Store a value per column of the own block."""

    @abc.abstractmethod
    def put_tile(self, ref: Any, tile: Value, v: Value) -> None:
        """Store the own block's part of a dense result."""

    @abc.abstractmethod
    def valid(self, tile: Value) -> Value:
        """Which places of a visited tile exist and have not been visited before, as a tile or a value to spread."""

    @abc.abstractmethod
    def bound(self, ref: Any, channel: int) -> Value:
        """An integer per block from ref (blocks, channels), for the bounds of a loop."""

    @abc.abstractmethod
    def first(self, ref: Any, channel: int, tile: Value | None) -> Value:
        """The first value of `rows(ref, channel, tile)`, spreading over everything."""
