"""Sides that run in PyTorch: torchsort, diffsort, difftopk."""

from collections.abc import Callable

import numpy as np
import torch
from comparisons import Comparison


def _torchsort(case: Comparison) -> Callable:
    import torchsort

    return lambda x: torchsort.soft_sort(x, regularization_strength=case.theirs["torchsort"])


def _diffsort(case: Comparison) -> Callable:
    import diffsort

    network = diffsort.DiffSortNet("bitonic", case.shape[1], steepness=case.theirs["diffsort"])
    return lambda x: network(x)[0]


def _difftopk(case: Comparison) -> Callable:
    import difftopk

    network = difftopk.DiffTopkNet("bitonic", case.shape[1], case.k, steepness=case.theirs["difftopk"])
    # It yields the soft indices, largest last.
    return lambda x: torch.einsum("bnk,bn->bk", network(x)[1], x).flip(1)


def prepare(side: str, case: Comparison, x: np.ndarray, rng: np.random.Generator):
    """The values, what else there is to report, and the calls to time."""
    operator = {"torchsort": _torchsort, "diffsort": _diffsort, "difftopk": _difftopk}[side](case)
    keys = torch.tensor(x, requires_grad=True)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return operator(keys)

    values = forward()
    weights = torch.tensor(rng.normal(size=tuple(values.shape)).astype(np.float32))

    def gradient() -> torch.Tensor:
        return torch.autograd.grad((operator(keys) * weights).sum(), keys)[0]

    report = {"dtype": "float32", "finite": bool(torch.isfinite(gradient()).all())}
    return values.numpy(), report, {"forward": forward, "gradient": gradient}
