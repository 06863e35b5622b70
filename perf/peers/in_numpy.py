"""POT's Sinkhorn in NumPy: the same transport problem as softjax's method "ot", forward only, in float64."""

import numpy as np
from comparisons import Comparison


def prepare(side: str, case: Comparison, x: np.ndarray, rng: np.random.Generator):
    """The values, what else there is to report, and the calls to time."""
    del side, rng
    import ot

    n = case.shape[1]
    # A sort asks for every rank; a top-k for its own, and for one filler that holds the rest.
    masses = np.ones(n) if case.operator == "sort" else np.concatenate([[n - case.k], np.ones(case.k)])
    anchors = np.linspace(0, 1, len(masses))
    rows = x.astype(np.float64)

    def one(row: np.ndarray) -> np.ndarray:
        place = 1 / (1 + np.exp(-(row - row.mean()) / row.std()))
        costs = np.square(place[:, None] - anchors[None])
        how = {"method": "sinkhorn", "numItermax": 20_000, "stopThr": case.theirs["pot"], "warn": False}
        plan = ot.sinkhorn(np.full(n, 1 / n), masses / n, costs, case.softness, **how)
        return row @ plan * n / masses

    def forward() -> np.ndarray:
        sums = np.stack([one(row) for row in rows])
        return sums if case.operator == "sort" else sums[:, :0:-1]

    return forward(), {"dtype": "float64"}, {"forward": forward}
