"""What is a choice and not a compiler's limit, as data: from which sizes on kernels run, and the sizes of their tiles.

`default.json` serves every device. A file named after a device kind (`jax.Device.device_kind`, spaces as underscores),
written by `perf/tune.py`, comes first for what it holds. Each has

- "measured": whether its entries were timed, with "device", "versions", "commit" and "date" where they were;
- "kernels", method -> platform -> `Rule`: from which sizes on the kernels of a method are chosen;
- "tiles", implementation -> family -> `Tile`. Families of the pairwise kernels: "rows" and "columns", programs that own
  such. For "transport" a list of `Keys`, each up to so many anchors.

A rule follows the device that a program is lowered for. Tiles are needed before that is known: they follow this
process's default device where it runs the implementation, and `default.json` otherwise, so that a program compiled
ahead of time for another device has the default tiles.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jax

from softjax._primitive import PLATFORMS

from .. import _kernel
from .._kernel import Tile

FOLDER = Path(__file__).parent
PLATFORM = {"pallas_mosaic_gpu": "cuda", "pallas_mosaic_tpu": "tpu"}
"""Where an implementation runs; interpreters run anywhere, with tiles of their own."""
FAMILIES = ("rows", "columns", "transport")


@dataclass(frozen=True)
class Rule:
    """From which sizes on the kernels of a method are chosen on a platform, and whether that was measured.

    Only transport has anchors.
    """

    ops: tuple[str, ...]
    least_keys: int
    least_batch: int
    most_anchors: int = 0
    measured: bool = False

    def refusal(self, op: str, batch: int | None, n: int, anchors: int) -> str | None:
        """Why the rule does not choose a kernel for a call, or None. A batch of None is not known yet."""
        if op not in self.ops:
            return f"no kernel is chosen for {op}"
        if n < self.least_keys:
            return f"rows of {n} are shorter than {self.least_keys}"
        if anchors > self.most_anchors:
            return f"{anchors} anchors are more than {self.most_anchors}"
        if batch is not None and batch < self.least_batch:
            return f"{batch} rows are fewer than {self.least_batch}"
        return None


@dataclass(frozen=True)
class Keys:
    """Keys at a time of a transport kernel for up to so many anchors."""

    anchors: int
    keys: int


@dataclass(frozen=True)
class Table:
    """What a file says."""

    measured: bool = False
    kernels: Mapping[str, Mapping[str, Rule]] = field(default_factory=dict)
    tiles: Mapping[str, Mapping[str, Tile | tuple[Keys, ...]]] = field(default_factory=dict)


def limit(implementation: str, family: str, tile: Tile | Keys) -> str | None:
    """Why a compiler takes no such tile, or None as far as is known without asking it."""
    steps = {"rows": 1, "columns": 1, "keys": 1}
    if implementation == "pallas_mosaic_tpu":
        steps = {"rows": 8, "columns": 128, "keys": 128}
    elif implementation in _kernel.MOSAIC_GPU:
        steps = {"rows": 64, "columns": 8, "keys": 128}
    for name, step in steps.items():
        size = getattr(tile, name, None)
        if size is None:
            continue
        if size < 1 or size % step:
            return f"`{name}` (={size}) must be a positive multiple of {step}"
    return None


def table(data: Mapping[str, Any]) -> Table:
    """A table from a file's contents.

    **Raises:** `ValueError` that names the entry, for tiles that a compiler does not take; `TypeError` for a field
        that there is not.
    """
    measured = bool(data.get("measured", False))
    kernels = {
        method: {p: Rule(**r | {"ops": tuple(r["ops"]), "measured": measured}) for p, r in rules.items()}
        for method, rules in data.get("kernels", {}).items()
    }
    tiles: dict[str, dict[str, Tile | tuple[Keys, ...]]] = {}
    for implementation, families in data.get("tiles", {}).items():
        if implementation not in _kernel.IMPLEMENTATIONS:
            raise ValueError(f"`tiles` has {implementation!r}, which is no kernel implementation.")
        found = tiles[implementation] = {}
        for family, entry in families.items():
            if family not in FAMILIES:
                raise ValueError(f"`tiles` of {implementation} has {family!r}, not one of {', '.join(FAMILIES)}.")
            several = family == "transport"
            parsed = tuple(Keys(**keys) for keys in entry) if several else (Tile(**entry),)
            found[family] = parsed if several else parsed[0]  # pyright: ignore[reportArgumentType]
            for tile in parsed:
                if (reason := limit(implementation, family, tile)) is not None:
                    raise ValueError(f"{family} of {implementation}: {reason}.")
    return Table(measured, kernels, tiles)


def load(path: Path) -> Table:
    """The table in a file. **Raises:** what `table` does."""
    return table(json.loads(path.read_text(encoding="utf-8")))


def file_of(kind: str) -> Path:
    """The file of a device kind."""
    return FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', kind)}.json"


@cache
def _stored(kind: str | None) -> Table:
    """The table of a device kind, empty where there is none; None stands for the default."""
    path = FOLDER / "default.json" if kind is None else file_of(kind)
    return load(path) if kind is None or path.exists() else Table()


@cache
def kinds() -> tuple[str | None, ...]:
    """Device kinds that have a file, and None for the default."""
    return None, *sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "default")


_NOTHING = Table()
_over: ContextVar[Table] = ContextVar("over", default=_NOTHING)


def rule(method: str, platform: str, kind: str | None = None) -> Rule | None:
    """The rule of a method on a platform, for a device kind where it is known; None where no kernel is chosen."""
    for found in (_over.get(), _stored(kind), _stored(None)):
        if (rule := found.kernels.get(method, {}).get(platform)) is not None:
            return rule
    return None


def _local_kind(implementation: str) -> str | None:
    """The kind of this process's default device, None where it does not run an implementation."""
    platform = PLATFORM.get(implementation)
    if platform is None:
        return None
    try:
        device = jax.config.jax_default_device or jax.local_devices()[0]
        device = jax.local_devices(backend=device)[0] if isinstance(device, str) else device
    except RuntimeError:  # no backend starts here
        return None
    return device.device_kind if PLATFORMS.get(device.platform, device.platform) == platform else None


def _entry(implementation: str, family: str) -> Any:
    for found in (_over.get(), _stored(_local_kind(implementation)), _stored(None)):
        if (entry := found.tiles.get(implementation, {}).get(family)) is not None:
            return entry
    raise KeyError(f"default.json has no {family!r} tiles of {implementation}.")


def tile(implementation: str, family: str) -> Tile:
    """The tile of a family of pairwise kernels: "rows" or "columns"."""
    return _entry(implementation, family)


def keys(implementation: str, anchors: int) -> Keys:
    """Keys at a time of a transport kernel for so many anchors, which it holds (`transport._limits.MAX_ANCHORS`)."""
    entries = sorted(_entry(implementation, "transport"), key=lambda entry: entry.anchors)
    return next((entry for entry in entries if anchors <= entry.anchors), entries[-1])


@contextmanager
def override(given: Table) -> Iterator[None]:
    """Within it, what a table holds comes before every file.

    Programs that were traced outside hold other tiles, and those traced inside are of no use afterwards: JAX's caches
    are emptied on either side. What `jax.stages.Lowered.compile` has made keeps its tiles and runs anywhere.
    """
    token = _over.set(given)
    _forget()
    try:
        yield
    finally:
        _over.reset(token)
        _forget()


def _forget() -> None:
    jax.clear_caches()
    _kernel.forget()
