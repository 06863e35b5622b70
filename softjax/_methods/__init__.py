"""The methods of soft ordering, one folder each, and the table that names them."""

from .base import AbstractMethod
from .fast_soft_sort.method import FastSoftSort
from .lapsum.method import LapSum
from .neuralsort.method import NeuralSort
from .ot.method import OptimalTransport
from .softsort.method import SoftSort

METHODS: dict[str, AbstractMethod] = {
    method.name: method for method in (SoftSort(), NeuralSort(), OptimalTransport(), LapSum(), FastSoftSort())
}
"""Every method by its public name."""
