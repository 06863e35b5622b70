"""The only times that `make gate` judges: ratios within one run, whose limits are so wide that noise crosses none."""

from dataclasses import dataclass
from statistics import median

from shapes import Case
from timing import compiled, interleaved, ratios


@dataclass(frozen=True)
class Band:
    """A case's time, forward or with gradient, over that of the hard operator or of the dense form: at most `most`."""

    case: Case
    which: str
    over: str
    most: float

    def ratio(self) -> float:
        """The median of the ratios of calls in turns."""
        x = self.case.keys()
        of = lambda case: case.soft if self.which == "forward" else case.value_and_gradient()
        other = self.case.hard if self.over == "hard" else of(self.case.by("dense"))
        programs = {"soft": compiled(of(self.case), x)[0], "other": compiled(other, x)[0]}
        times = interleaved(programs, x, seconds=5.0)
        return median(ratios(times["soft"], times["other"]))

    def holds(self) -> bool:
        """Measure it, show it, and say whether it is within the limit."""
        ratio = self.ratio()
        verdict = "" if ratio <= self.most else "  EXCEEDED"
        what = f"{self.case.key:36}{self.which:10}over {self.over:13}"
        print(f"{what}{self.most:16.2f}{ratio:16.3f}{verdict}", flush=True)
        return ratio <= self.most


# Each limit is two to four times what was measured when it was set.
BANDS = (
    Band(Case("sort", "softsort", (8, 16_384)), "forward", "hard", 2.5),
    Band(Case("sort", "softsort", (8, 16_384)), "gradient", "hard", 4.0),
    Band(Case("sort", "softsort", (8, 16_384), "c1"), "forward", "hard", 8.0),
    Band(Case("mask", "ot", (8, 16_384)), "forward", "hard", 25.0),
    Band(Case("sort", "softsort", (1, 2_048)), "gradient", "dense", 0.25),
    Band(Case("sort", "neuralsort", (1, 4_096)), "gradient", "dense", 0.25),
    Band(Case("sort", "ot", (1, 512)), "forward", "dense", 0.75),
)
