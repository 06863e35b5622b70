"""Where a kernel is worth its while, by device kind: data, one JSON file each, and defaults for kinds not measured.

A file named after a device kind (`jax.Device.device_kind`, spaces as underscores) takes the place of `default.json`.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Rule:
    """From which sizes on the kernels of a method are chosen on a platform, and whether that was measured."""

    ops: tuple[str, ...]
    least_keys: int
    least_batch: int
    most_anchors: int
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


@cache
def rule(order: str, platform: str, kind: str | None = None) -> Rule | None:
    """The rule of a method on a platform, for a device kind where it is known; None where no kernel is chosen."""
    file = FOLDER / f"{kind.replace(' ', '_')}.json" if kind else FOLDER / "default.json"
    table = json.loads((file if file.exists() else FOLDER / "default.json").read_text(encoding="utf-8"))
    found = table["kernels"].get(order, {}).get(platform)
    return None if found is None else Rule(**found | {"ops": tuple(found["ops"]), "measured": table["measured"]})
