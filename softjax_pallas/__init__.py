"""Fused Pallas kernels for softjax's array operators on GPU and TPU.

They run where `_selection` finds them worth it, and where they are asked for by name:
`softjax.sort(x, implementation="pallas_mosaic_gpu")`. Importing this package imports no Pallas.
"""

from typing import Any

from ._named import OPS
from ._named import NamedKernels as named
from ._selection import pick as pick
from ._selection import sources as sources

__all__ = ["named", "pick", "sources", "tiles"]


def tiles(method: str, op: str, implementation: str, *arguments: Any) -> dict[str, int]:
    """Sizes of the tiles in which a kernel works on a call, by name."""
    return OPS[method].tiles(op, implementation, *arguments)
