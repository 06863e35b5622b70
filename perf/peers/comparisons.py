"""What is compared with whom. Nothing but the standard library: every environment imports this.

A peer's softness has one of four meanings here. "same": it is ours, so results must agree to `agrees`. "near": it is
ours in another definition of the operator, which is named below, and results may differ by as much as that definition
does. "limit": it is another quantity, so both take one so small that each is the hard operator to `agrees`. "hard": it
has none and is a yardstick, another library's hard operator, equal to JAX's to `agrees`. Anything else has no common
result, and is not timed.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Comparison:
    """An operator on (rows, n) normal float32 values, and each peer's meaning of softness."""

    operator: str
    method: str
    shape: tuple[int, int]
    softness: float
    peers: dict[str, str]
    agrees: float
    k: int = 0
    theirs: dict[str, float] = field(default_factory=dict)
    """A peer's own parameter (steepness, regularisation) in a "limit", where it is not called softness."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        operator = f"{self.operator} {self.k}" if self.k else self.operator
        return f"{self.method} {operator}, {' x '.join(map(str, self.shape))}, softness {self.softness:g}"


_HARD = {"numpy": "hard", "torch": "hard"}

# Transport's other solvers stop where their default of 1e-3 in the marginals is not enough to agree (`theirs`).
COMPARISONS = (
    Comparison("sort", "softsort", (1, 16_384), 0.1, {"release": "same"}, 1e-4),
    # A_j is a sum of soft absolute values there, of hard ones (the paper's) here: the extremes move by some 0.2.
    Comparison("sort", "neuralsort", (1, 16_384), 0.1, {"release": "near"}, 0.3),
    Comparison("top_k", "ot", (16, 4_096), 0.1, {"ott": "same", "pot": "same"}, 2e-3, 32, {"ott": 1e-4, "pot": 1e-9}),
    # The release stops where its marginals are off by some 5e-4 elements.
    Comparison("top_k", "ot", (16, 4_096), 0.01, {"release": "same", "ott": "same"}, 1e-2, 32, {"ott": 1e-4}),
    Comparison("top_k", "ot", (16, 4_096), 0.001, {"release": "same"}, 1e-2, 32),
    Comparison("mask", "ot", (16, 4_096), 0.1, {"ott": "same"}, 1e-3, 409, {"ott": 1e-4}),
    Comparison("sort", "ot", (4, 512), 0.1, {"ott": "same", "pot": "same"}, 1e-3, 0, {"ott": 1e-4, "pot": 1e-9}),
    Comparison("ranking", "ot", (4, 512), 0.1, {"ott": "same"}, 1e-2, 0, {"ott": 1e-4}),
    Comparison("sort", "softsort", (16, 256), 1e-4, {"diffsort": "limit"}, 1e-2, 0, {"diffsort": 1e6}),
    Comparison("top_k", "softsort", (16, 256), 1e-4, {"difftopk": "limit"}, 1e-2, 8, {"difftopk": 1e6}),
    Comparison("sort", "softsort", (1, 16_384), 1e-4, {"torchsort": "limit"}, 1e-2, 0, {"torchsort": 1e-3}),
    *(
        Comparison("mask", method, (64, 16_384), 1e-7, {"lapsum": "limit"}, 1e-2, 32, {"lapsum": 1e-7})
        for method in ("ot", "softsort")
    ),
    # torchsort's strength is in steps of whole ranks.
    Comparison(
        *("sort", "fast_soft_sort", (64, 4_096), 0.1, {"release": "same", "torchsort": "same"}, 1e-3),
        theirs={"torchsort": 409.5},
    ),
    Comparison("mask", "lapsum", (64, 16_384), 0.1, {"lapsum": "same"}, 1e-4, 32, {"lapsum": 0.1}),
    Comparison("sort", "softsort", (1, 1_000_000), 0.1, _HARD, 1e-6),
    Comparison("sort", "ot", (1, 1_000_000), 0.1, _HARD, 1e-6),
    Comparison("top_k", "softsort", (64, 16_384), 0.1, _HARD, 1e-6, 32),
    Comparison("top_k", "ot", (64, 16_384), 0.1, _HARD, 1e-6, 32),
)
