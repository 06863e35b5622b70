"""Optimal transport to few anchors, solved in one kernel. Importing this does not import Pallas."""

from .limits import OPS as OPS
from .limits import supports as supports
from .op import named as named
from .op import refusal as refusal
from .op import tiles as tiles
