"""Kernels of the methods whose rows compare pairs of elements: SoftSort and NeuralSort."""

from ._tiles import tiles as tiles
from .op import forms as forms
from .op import refusal as refusal
from .op import supports as supports
