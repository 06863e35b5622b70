"""The methods of soft ordering, one folder each, and the table that names them."""

from .base import Method as Method
from .neuralsort.definition import DENSE as NEURALSORT_DENSE
from .neuralsort.method import FAST as NEURALSORT_FAST
from .ot import method as ot
from .softsort.definition import DENSE as SOFTSORT_DENSE
from .softsort.method import FAST as SOFTSORT_FAST

METHODS: dict[str, Method] = {
    "softsort": Method("softsort", dense=SOFTSORT_DENSE, xla=SOFTSORT_FAST, fused=("rows",)),
    "neuralsort": Method(
        "neuralsort",
        dense=NEURALSORT_DENSE,
        xla=NEURALSORT_FAST,
        rank_step=0.5,
        fused=("rows", "apply", "rank", "transposed"),
    ),
    "ot": Method(
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
