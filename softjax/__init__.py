"""Soft, differentiable drop-in replacements for JAX's hard operators."""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import Any as _Any

from ._calibration import calibrate_softness as calibrate_softness
from ._compare import equal as equal
from ._compare import greater as greater
from ._compare import greater_equal as greater_equal
from ._compare import isclose as isclose
from ._compare import less as less
from ._compare import less_equal as less_equal
from ._compare import not_equal as not_equal
from ._dispatch import Explanation as Explanation
from ._dispatch import explain as explain
from ._elementwise import abs as abs
from ._elementwise import ceil as ceil
from ._elementwise import clip as clip
from ._elementwise import floor as floor
from ._elementwise import heaviside as heaviside
from ._elementwise import mod as mod
from ._elementwise import relu as relu
from ._elementwise import round as round
from ._elementwise import sigmoidal as sigmoidal
from ._elementwise import sign as sign
from ._elementwise import softrelu as softrelu
from ._elementwise import trunc as trunc
from ._guard import arccos as arccos
from ._guard import arcsin as arcsin
from ._guard import div as div
from ._guard import log as log
from ._guard import norm as norm
from ._guard import sqrt as sqrt
from ._indexing import choose as choose
from ._indexing import dynamic_index_in_dim as dynamic_index_in_dim
from ._indexing import dynamic_slice as dynamic_slice
from ._indexing import dynamic_slice_in_dim as dynamic_slice_in_dim
from ._indexing import take as take
from ._indexing import take_along_axis as take_along_axis
from ._indexing import where as where
from ._logic import all as all
from ._logic import any as any
from ._logic import logical_and as logical_and
from ._logic import logical_not as logical_not
from ._logic import logical_or as logical_or
from ._logic import logical_xor as logical_xor
from ._mask import bottom_k_mask as bottom_k_mask
from ._mask import top_k_mask as top_k_mask
from ._methods.base import AbstractMethod as AbstractMethod
from ._methods.base import SolverInfo as SolverInfo
from ._permutation import SoftPermutation as SoftPermutation
from ._permutation import soft_permutation as soft_permutation
from ._quantile import argmedian as argmedian
from ._quantile import argpercentile as argpercentile
from ._quantile import argquantile as argquantile
from ._quantile import median as median
from ._quantile import percentile as percentile
from ._quantile import quantile as quantile
from ._router import Routing as Routing
from ._router import router as router
from ._sorting import argmax as argmax
from ._sorting import argmin as argmin
from ._sorting import argsort as argsort
from ._sorting import argtop_k as argtop_k
from ._sorting import bottom_k as bottom_k
from ._sorting import max as max
from ._sorting import min as min
from ._sorting import rank as rank
from ._sorting import ranking as ranking
from ._sorting import sort as sort
from ._sorting import top_k as top_k
from ._straight_through import abs_st as abs_st
from ._straight_through import argmax_st as argmax_st
from ._straight_through import argmedian_st as argmedian_st
from ._straight_through import argmin_st as argmin_st
from ._straight_through import argpercentile_st as argpercentile_st
from ._straight_through import argquantile_st as argquantile_st
from ._straight_through import argsort_st as argsort_st
from ._straight_through import argtop_k_st as argtop_k_st
from ._straight_through import bottom_k_mask_st as bottom_k_mask_st
from ._straight_through import bottom_k_st as bottom_k_st
from ._straight_through import ceil_st as ceil_st
from ._straight_through import clip_st as clip_st
from ._straight_through import equal_st as equal_st
from ._straight_through import floor_st as floor_st
from ._straight_through import grad_replace as grad_replace
from ._straight_through import greater_equal_st as greater_equal_st
from ._straight_through import greater_st as greater_st
from ._straight_through import heaviside_st as heaviside_st
from ._straight_through import isclose_st as isclose_st
from ._straight_through import less_equal_st as less_equal_st
from ._straight_through import less_st as less_st
from ._straight_through import max_st as max_st
from ._straight_through import median_st as median_st
from ._straight_through import min_st as min_st
from ._straight_through import mod_st as mod_st
from ._straight_through import not_equal_st as not_equal_st
from ._straight_through import percentile_st as percentile_st
from ._straight_through import quantile_st as quantile_st
from ._straight_through import rank_st as rank_st
from ._straight_through import ranking_st as ranking_st
from ._straight_through import relu_st as relu_st
from ._straight_through import round_st as round_st
from ._straight_through import sigmoidal_st as sigmoidal_st
from ._straight_through import sign_st as sign_st
from ._straight_through import softrelu_st as softrelu_st
from ._straight_through import sort_st as sort_st
from ._straight_through import st as st
from ._straight_through import top_k_mask_st as top_k_mask_st
from ._straight_through import top_k_st as top_k_st
from ._straight_through import trunc_st as trunc_st
from ._types import SoftBool as SoftBool
from ._types import SoftIndex as SoftIndex

__version__ = "0.1.0"
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    name for name, value in globals().items() if not (name.startswith("_") or isinstance(value, _ModuleType))
]

_SUBMODULES = ("losses", "random")


def __getattr__(name: str) -> _Any:
    """Submodules that are imported where they are used."""
    if name in _SUBMODULES:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
