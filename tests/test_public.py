"""The lock on the public surface: names, signatures, docstrings. A change here is a change for users."""

import inspect
import pydoc
import re
import types
from pathlib import Path

import pytest

import softjax as sj
from softjax._methods import METHODS

SOFT = "softness=0.1, mode='smooth'"
ORDER = f"{SOFT}, method='softsort', standardize=None, implementation=None"
NEURAL = ORDER.replace("softsort", "neuralsort")
LOG = "return_log_probs=False, log_prob_eps=0.0"
TRANSPORT = ORDER.replace("softsort", "ot")

SIGNATURES = {
    "abs": f"(x, *, {SOFT})",
    "all": "(a, axis=None, *, keepdims=False, use_geometric_mean=True)",
    "any": "(a, axis=None, *, keepdims=False, use_geometric_mean=True)",
    "arccos": "(x, /)",
    "arcsin": "(x, /)",
    "argmax": f"(a, axis=None, *, keepdims=False, {ORDER}, {LOG})",
    "argmedian": f"(a, axis=None, *, keepdims=False, {NEURAL}, {LOG})",
    "argmin": f"(a, axis=None, *, keepdims=False, {ORDER}, {LOG})",
    "argpercentile": f"(a, q, axis=None, *, keepdims=False, quantile_method='linear', {NEURAL}, {LOG})",
    "argquantile": f"(a, q, axis=None, *, keepdims=False, quantile_method='linear', {NEURAL}, {LOG})",
    "argsort": f"(a, axis=-1, *, descending=False, stable=True, {ORDER}, {LOG})",
    "argtop_k": f"(operand, k, *, axis=-1, is_stable=True, {ORDER}, {LOG})",
    "bottom_k": f"(operand, k, *, axis=-1, is_stable=True, {ORDER}, gated_grad=True, {LOG})",
    "bottom_k_mask": f"(operand, k, *, axis=-1, {TRANSPORT})",
    "calibrate_softness": "(a, axis=-1, *, entropy=None, error=None, per_row=False, mode='smooth', method='softsort', "
    "standardize=None, implementation=None)",
    "ceil": f"(x, /, *, {SOFT})",
    "choose": "(a, choices)",
    "clip": f"(x, /, min=None, max=None, *, {SOFT}, gated=False)",
    "div": "(x, y, /)",
    "dynamic_index_in_dim": "(operand, index, axis=0, keepdims=True)",
    "dynamic_slice": "(operand, start_indices, slice_sizes)",
    "dynamic_slice_in_dim": "(operand, start_index, slice_size, axis=0)",
    "equal": f"(x, y, /, *, {SOFT}, normalize=False)",
    "explain": "(operator, /, *args, **kwargs)",
    "floor": f"(x, /, *, {SOFT})",
    "grad_replace": "(fn)",
    "greater": f"(x, y, /, *, {SOFT})",
    "greater_equal": f"(x, y, /, *, {SOFT})",
    "heaviside": f"(x1, x2=0.5, /, *, {SOFT})",
    "isclose": f"(a, b, rtol=1e-05, atol=1e-08, equal_nan=False, *, {SOFT}, normalize=False)",
    "less": f"(x, y, /, *, {SOFT})",
    "less_equal": f"(x, y, /, *, {SOFT})",
    "log": "(x, /)",
    "logical_and": "(x, y, /, *, use_geometric_mean=True)",
    "logical_not": "(x, /)",
    "logical_or": "(x, y, /, *, use_geometric_mean=True)",
    "logical_xor": "(x, y, /, *, use_geometric_mean=True)",
    "max": f"(a, axis=None, *, keepdims=False, {ORDER}, gated_grad=True)",
    "median": f"(a, axis=None, *, keepdims=False, {NEURAL}, gated_grad=True)",
    "min": f"(a, axis=None, *, keepdims=False, {ORDER}, gated_grad=True)",
    "mod": f"(x1, x2, /, *, {SOFT})",
    "norm": "(x, /, *, axis=None, keepdims=False)",
    "not_equal": f"(x, y, /, *, {SOFT}, normalize=False)",
    "percentile": f"(a, q, axis=None, *, keepdims=False, quantile_method='linear', {NEURAL}, gated_grad=True)",
    "quantile": f"(a, q, axis=None, *, keepdims=False, quantile_method='linear', {NEURAL}, gated_grad=True)",
    "rank": f"(a, axis=-1, *, descending=True, {ORDER})",
    "ranking": f"(a, axis=-1, *, descending=True, {ORDER})",
    "relu": f"(x, *, {SOFT}, gated=False)",
    "round": f"(a, decimals=0, *, {SOFT}, neighbor_radius=None)",
    "router": f"(logits, k, *, straight_through=False, {TRANSPORT})",
    "sigmoidal": f"(x, *, {SOFT})",
    "sign": f"(x, *, {SOFT})",
    "soft_permutation": f"(a, axis=-1, *, {ORDER})",
    "softrelu": f"(x, *, {SOFT}, gated=False)",
    "sort": f"(a, axis=-1, *, descending=False, stable=True, {ORDER}, gated_grad=True)",
    "sqrt": "(x, /)",
    "st": "(fn)",
    "take": "(a, indices, axis=None)",
    "take_along_axis": "(arr, indices, axis=-1)",
    "top_k": f"(operand, k, *, axis=-1, is_stable=True, {ORDER}, gated_grad=True, {LOG})",
    "top_k_mask": f"(operand, k, *, axis=-1, {TRANSPORT})",
    "trunc": f"(x, /, *, {SOFT})",
    "where": "(condition, x, y)",
}
# What softening means is written once, in the documentation.
EXPLAINED_ONCE = {"softness", "mode", "method", "standardize", "implementation"}
TYPES = {"AbstractMethod", "Explanation", "Routing", "SoftBool", "SoftIndex", "SoftPermutation", "SolverInfo"}
# `soft_permutation` returns an operator, not an array: its own mode="hard" is the hard form.
WITH_MODE = {name for name, signature in SIGNATURES.items() if "mode=" in signature}
WITH_MODE -= {"calibrate_softness", "router", "soft_permutation"}


def public(module):
    """Names without an underscore that are not submodules."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def spelled(function):
    """The signature without annotations."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_names():
    """Exactly these; every operator with a mode has its straight-through form."""
    assert public(sj) == set(SIGNATURES) | TYPES | {f"{name}_st" for name in WITH_MODE}


def test_all_lists_every_public_name():
    """What `help(softjax)` shows and `from softjax import *` brings, and nothing else."""
    assert len(sj.__all__) == len(set(sj.__all__)) and set(sj.__all__) == public(sj)
    text = pydoc.plain(pydoc.render_doc(sj))
    for name in SIGNATURES:
        assert re.search(rf"^    {name}\(", text, re.MULTILINE), name


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    """Names, order, kinds and defaults of all parameters; the straight-through form has them too."""
    assert spelled(getattr(sj, name)) == SIGNATURES[name]
    if name in WITH_MODE:
        assert spelled(getattr(sj, f"{name}_st")) == SIGNATURES[name]


@pytest.mark.parametrize("name", sorted(public(sj) - TYPES))
def test_docstring(name):
    """A sentence first, then arguments, what is returned, what is raised; every parameter of its own is named."""
    function = getattr(sj, name)
    text = inspect.getdoc(function) or ""
    assert text.split("\n")[0].strip().endswith(".")
    for heading in ("Arg", "Returns", "Raises"):
        assert heading in text, heading
    # "Arguments: see `quantile`" is enough.
    referred = " ".join(
        inspect.getdoc(getattr(sj, other, None)) or "" for other in re.findall(r"(?:see|in) `(\w+)`", text)
    )
    for parameter in set(inspect.signature(function).parameters) - EXPLAINED_ONCE:
        assert re.search(rf"\b{parameter}\b", text + referred), parameter


def test_straight_through_forms_keep_their_operators_names():
    """`functools.wraps` and the suffix, so that help() and tracebacks tell which operator it is."""
    for name in WITH_MODE:
        function = getattr(sj, f"{name}_st")
        assert function.__name__ == f"{name}_st"
        assert inspect.getdoc(getattr(sj, name)).split("\n")[0] in inspect.getdoc(function)


RELEASED = """abs all any arccos arcsin argmax argmedian argmin argpercentile argquantile argsort choose clip div
dynamic_index_in_dim dynamic_slice dynamic_slice_in_dim equal grad_replace greater greater_equal heaviside isclose less
less_equal log logical_and logical_not logical_or logical_xor max median min norm not_equal percentile quantile rank
relu round sigmoidal sign softrelu sort sqrt st take take_along_axis top_k where
abs_st argmax_st argmedian_st argmin_st argpercentile_st argquantile_st argsort_st clip_st equal_st greater_equal_st
greater_st heaviside_st isclose_st less_equal_st less_st max_st median_st min_st not_equal_st percentile_st quantile_st
rank_st relu_st round_st sign_st sort_st top_k_st""".split()
RELEASED_PARAMETERS = """a atol axis b choices condition descending epsilon fn gated gated_grad k keepdims method mode
neighbor_radius ot_kwargs p q quantile_method rtol slice_size slice_sizes soft_index soft_start_index soft_start_indices
softness standardize use_geometric_mean x y""".split()
RELEASED_METHODS = ("ot", "softsort", "neuralsort", "fast_soft_sort", "smooth_sort", "sorting_network")


def test_the_released_library():
    """Every function of softjax 0.1.1 is here; its parameters and methods are, or docs/differences.md names them."""
    assert set(RELEASED) <= public(sj)
    own = {name for function in RELEASED for name in inspect.signature(getattr(sj, function)).parameters}
    page = (Path(__file__).parent.parent / "docs" / "differences.md").read_text(encoding="utf-8")
    for name in RELEASED_PARAMETERS:
        assert name in own or f"`{name}`" in page, name
    for name in RELEASED_METHODS:
        assert name in METHODS or f'`"{name}"`' in page, name
