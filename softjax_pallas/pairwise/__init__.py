"""Kernels of the methods whose rows compare pairs of elements: SoftSort and NeuralSort."""

from ._tiles import tiles as tiles
from .op import Compiled as Compiled
from .op import forms as forms
from .op import kernels_for_aot as kernels_for_aot
from .op import refusal as refusal
from .op import supports as supports
