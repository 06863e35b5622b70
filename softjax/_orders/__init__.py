"""The methods of soft ordering, one file each, and the table that names them."""

from . import neuralsort, neuralsort_band, ot, softsort, softsort_fast
from ._base import Order as Order

ORDERS: dict[str, Order] = {
    "softsort": Order("softsort", dense=softsort.DENSE, xla=softsort_fast.FAST, fused=("rows",)),
    "neuralsort": Order(
        "neuralsort",
        dense=neuralsort.DENSE,
        xla=neuralsort_band.FAST,
        rank_step=0.5,
        fused=("rows", "apply", "rank", "transposed"),
    ),
    "ot": Order(
        "ot",
        dense=ot.DENSE,
        xla=ot.FAST,
        joint=True,
        standardize=True,
        info=ot.solver_info,
        fused=("rows", "apply", "mask"),
    ),
}
"""Every method by its public name; what a method can do is data in its entry."""
