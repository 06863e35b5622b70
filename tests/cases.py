"""The one table: operator x mode x method x axis, with the oracle of each operator and the rule for tolerances."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import softjax as sj

SOFT_MODES = ("smooth", "c0", "c1", "c2")
MODES = ("hard", *SOFT_MODES)
METHODS = {"softsort": SOFT_MODES, "neuralsort": SOFT_MODES, "ot": SOFT_MODES, "lapsum": ("smooth",)}
"""Every method that has a soft permutation, and its soft modes."""
VALUE_METHODS = {"fast_soft_sort": ("c0",)}
"""The others: values, ranks and masks alone."""
SHAPE = (3, 3, 3)  # every axis gives rows of one shape, compiled once
SQUARE = (5, 5)  # the shape of most tests along the last axis, so that they share what is compiled


def pairs(modes=MODES, methods=METHODS):
    """Every one of these modes with every method that has it."""
    return [(mode, method) for method, own in methods.items() for mode in modes if mode in ("hard", *own)]


def each_pair(modes=MODES):
    """Parametrisation by them."""
    return pytest.mark.parametrize(("mode", "method"), pairs(modes))


def x64(on=True):
    """Context in which float64 is on."""
    return jax.enable_x64(on)


# --- tolerances ----------------------------------------------------------------------------------------

# Forward error of a handful of operations at the dtype's precision.
UNIT = {"float64": 1e-14, "float32": 2e-6, "bfloat16": 2.0**-7, "float16": 2.0**-10}
# Where an iterative solver stops instead: marginals hold to this, in units of elements.
SOLVER = {"float64": 1e-10, "float32": 2e-6}


def tolerance(dtype, n=1, conditioning=1.0, method=None):
    """Dtype table x sqrt(reduced length) x conditioning (the largest logit, whose rounding the result inherits)."""
    unit = (SOLVER if method == "ot" else UNIT)[jnp.dtype(dtype).name]
    return unit * np.sqrt(n) * conditioning


def conditioning(x, n, softness, method):
    """The largest logit of a method on values x: |x_i - x_j| / softness, n times that, or 1 / softness."""
    spread = np.ptp(np.asarray(x, np.float64))
    largest = {"softsort": spread, "neuralsort": n * spread, "ot": 1.0, "lapsum": spread, "fast_soft_sort": n * spread}
    return 1 + largest[method] / np.min(softness)


# --- array operators -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrayOperator:
    """How to call an operator that works along an axis, and what its oracle is."""

    oracle: Callable
    axes: tuple
    positional: tuple = ()
    index: bool = False
    options: dict = field(default_factory=dict)


_ONE, _ANY = (-1, 0, None), (-1, 0, None, (0, 2))
K, Q, PERCENT = 2, 0.3, 30.0

ARRAY = {
    "argsort": ArrayOperator(oracle.argsort, _ONE, index=True),
    "sort": ArrayOperator(oracle.sort, _ONE),
    "ranking": ArrayOperator(oracle.ranking, _ONE),
    "rank": ArrayOperator(oracle.rank, _ONE),
    "argmax": ArrayOperator(oracle.argmax, _ONE, index=True),
    "argmin": ArrayOperator(oracle.argmin, _ONE, index=True),
    "max": ArrayOperator(oracle.soft_max, _ANY),
    "min": ArrayOperator(oracle.soft_min, _ANY),
    "argtop_k": ArrayOperator(oracle.argtop_k, (-1, 0, 1), (K,), True, {"k": K}),
    "top_k": ArrayOperator(oracle.top_k, (-1, 0, 1), (K,), False, {"k": K}),
    "bottom_k": ArrayOperator(oracle.bottom_k, (-1, 0, 1), (K,), False, {"k": K}),
    "top_k_mask": ArrayOperator(oracle.top_k_mask, (-1, 0, 1), (K,), False, {"k": K}),
    "bottom_k_mask": ArrayOperator(oracle.bottom_k_mask, (-1, 0, 1), (K,), False, {"k": K}),
    "quantile": ArrayOperator(oracle.quantile, _ANY, (Q,), False, {"q": Q}),
    "argquantile": ArrayOperator(oracle.quantile_row, _ONE, (Q,), True, {"q": Q}),
    "percentile": ArrayOperator(oracle.quantile, _ANY, (PERCENT,), False, {"q": Q}),
    "argpercentile": ArrayOperator(oracle.quantile_row, _ONE, (PERCENT,), True, {"q": Q}),
    "median": ArrayOperator(oracle.quantile, _ANY, (), False, {"q": 0.5}),
    "argmedian": ArrayOperator(oracle.quantile_row, _ONE, (), True, {"q": 0.5}),
}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    mode: str
    method: str
    axis: int | tuple | None

    def __call__(self, x, softness=0.1, **options):
        """The operator of the package."""
        how = {"softness": softness, "mode": self.mode, "method": self.method}
        return getattr(sj, self.name)(x, *ARRAY[self.name].positional, axis=self.axis, **how, **options)

    def expected(self, x, softness=0.1, **options):
        """The oracle's value."""
        operator = ARRAY[self.name]
        how = {"mode": self.mode, "method": self.method, "index": operator.index}
        return oracle.along(operator.oracle, x, self.axis, softness, **how, **operator.options, **options)

    def length(self, shape):
        """The number of reduced elements."""
        if self.axis is None:
            return int(np.prod(shape))
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return int(np.prod([shape[a] for a in axes]))

    def __str__(self):
        axis = "".join(map(str, self.axis)) if isinstance(self.axis, tuple) else self.axis
        return f"{self.name}-{self.mode}-{self.method}-axis={axis}"


CASES = [
    Case(name, mode, method, axis)
    for name, operator in ARRAY.items()
    for mode, method in pairs() + ([] if operator.index else pairs(methods=VALUE_METHODS))
    for axis in operator.axes
]


def turn(number, options):
    """The option that has its turn: consecutive numbers meet all of them, in an order that mixes modes and methods."""
    return options[number * 7 % len(options)]


def slow_unless(quick):
    """The mark of a line of a product: ci/check.sh runs some of a product's lines, ci/nightly.sh all."""
    return () if quick else pytest.mark.slow


def _every_axis():
    """What ci/check.sh runs: the last axis in every mode and method, each other axis of an operator in one of each."""
    other = [(name, axis) for name, operator in ARRAY.items() for axis in operator.axes if axis != -1]
    turns = {line: turn(i, pairs()) for i, line in enumerate(other)}
    return {c for c in CASES if c.axis == -1 or turns[c.name, c.axis] == (c.mode, c.method)}


def array_cases(axes=None):
    """Parametrisation by the lines of the table; lines beyond `_every_axis` are slow. `axes` leaves others out."""
    chosen, quick = [case for case in CASES if axes is None or case.axis in axes], _every_axis()
    lines = [pytest.param(case, id=str(case), marks=slow_unless(case in quick)) for case in chosen]
    return pytest.mark.parametrize("case", lines)


@functools.cache
def compiled(case, options=()):
    """The case under jit with a traced softness, compiled once per shape; options as a tuple of pairs."""
    return jax.jit(lambda x, softness: case(x, softness, **dict(options)))


@functools.cache
def compiled_gradient(case, options=()):
    """Gradient of a weighted loss of the case with respect to x and softness."""

    def loss(x, softness, weights):
        out = case(x, softness, **dict(options))
        return sum(jnp.vdot(w, o) for w, o in zip(weights, jax.tree.leaves(out), strict=True))

    return jax.jit(jax.grad(loss, (0, 1)))


def sample(shape=SHAPE, seed=0, dtype=np.float64):
    """Normal values without ties."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


KINDS = ("normal", "tied", "constant", "far", "heavy")


def lying(kind, n, seed=0):
    """Two rows of n keys: rows that differ in how keys lie."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, n))
    return {
        "normal": x,
        "tied": np.round(x, 1),
        "constant": np.full_like(x, 0.3),
        "far": 1e3 + np.round(x, 1),
        "heavy": rng.standard_cauchy(size=(2, n)),
        "huge": 1e30 * x,
        "tiny": 1e-30 * x,
    }[kind]


# --- elementwise operators -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Elementwise:
    """An elementwise operator: its number of array arguments, further arguments, oracle, and JAX's function."""

    arity: int
    oracle: Callable
    hard: Callable
    positional: tuple = ()
    options: dict = field(default_factory=dict)
    variants: tuple = ({},)
    divides: bool = False

    def legal(self, args):
        """The arguments; for an operator that divides few and finite multiples of divisors that are not near zero."""
        if not self.divides:
            return args
        x, y = (a[np.isfinite(args[0])] for a in args)
        return np.clip(x, -4, 4), np.where(y < 0, -0.8, 0.8).astype(y.dtype) + y / 4

    def call(self, name, args, softness, mode, **options):
        """The operator of the package."""
        return getattr(sj, name)(*args, *self.positional, softness=softness, mode=mode, **options)


def _clip(x, softness, mode, **options):
    return oracle.clip(x, -0.5, 0.7, softness, mode, **options)


def _step(x, softness, mode):
    return oracle.step(x if mode == "hard" else x / softness, mode)


GATED = ({}, {"gated": True})
NORMALIZE = ({}, {"normalize": True})

ELEMENTWISE = {
    "sigmoidal": Elementwise(1, _step, lambda x: jnp.heaviside(x, jnp.asarray(0.5, x.dtype))),
    "heaviside": Elementwise(1, _step, lambda x: jnp.heaviside(x, jnp.asarray(0.5, x.dtype))),
    "softrelu": Elementwise(1, oracle.relu, jax.nn.relu, variants=GATED),
    "relu": Elementwise(1, oracle.relu, jax.nn.relu, variants=GATED),
    "clip": Elementwise(1, _clip, lambda x: jnp.clip(x, -0.5, 0.7), (-0.5, 0.7), variants=GATED),
    "abs": Elementwise(1, oracle.soft_abs, jnp.abs),
    "sign": Elementwise(1, oracle.sign, jnp.sign),
    "round": Elementwise(1, oracle.soft_round, jnp.round, variants=({}, {"decimals": 1})),
    "floor": Elementwise(1, oracle.floor, jnp.floor),
    "ceil": Elementwise(1, oracle.ceil, jnp.ceil),
    "trunc": Elementwise(1, oracle.trunc, jnp.trunc),
    "mod": Elementwise(2, oracle.mod, jnp.mod, divides=True),
    "greater": Elementwise(2, oracle.greater, jnp.greater),
    "greater_equal": Elementwise(2, oracle.greater_equal, jnp.greater_equal),
    "less": Elementwise(2, lambda x, y, *a: oracle.greater(y, x, *a), jnp.less),
    "less_equal": Elementwise(2, lambda x, y, *a: oracle.greater_equal(y, x, *a), jnp.less_equal),
    "equal": Elementwise(2, oracle.equal, jnp.equal, variants=NORMALIZE),
    "not_equal": Elementwise(
        2, lambda x, y, *a, **o: 1 - oracle.equal(x, y, *a, **o), jnp.not_equal, variants=NORMALIZE
    ),
    "isclose": Elementwise(2, oracle.isclose, jnp.isclose, variants=NORMALIZE),
}

ELEMENTWISE_CASES = [
    (name, mode, tuple(variant.items()))
    for name, operator in ELEMENTWISE.items()
    for mode in MODES
    for variant in operator.variants
]


def _id(name, mode, options, *more):
    return "-".join([name, mode, *(f"{k}={v}" for k, v in options), *more])


def _in_turn(name, mode, options, modes=MODES):
    """Whether an operator's variant has its turn in the mode."""
    variants = list(dict.fromkeys((name, options) for name, _, options in ELEMENTWISE_CASES))
    return mode == turn(variants.index((name, options)), modes)


def elementwise_cases(modes=MODES, variants=True):
    """Parametrisation by name, mode and the options of the variant: every operator x mode, a variant in one mode; the
    others are slow."""
    chosen = [c for c in ELEMENTWISE_CASES if c[1] in modes and (variants or not c[2])]
    lines = [pytest.param(*c, id=_id(*c), marks=slow_unless(not c[2] or _in_turn(*c, modes))) for c in chosen]
    return pytest.mark.parametrize(("name", "mode", "options"), lines)


def elementwise_cases_by_dtype(first, second):
    """The same with a dtype: of the second every operator and variant in one mode."""
    lines = [
        pytest.param(*c, dtype, id=_id(*c, dtype), marks=slow_unless(_in_turn(*c) or (dtype == first and not c[2])))
        for c in ELEMENTWISE_CASES
        for dtype in (first, second)
    ]
    return pytest.mark.parametrize(("name", "mode", "options", "dtype"), lines)


def elementwise_cases_in_turn():
    """Every operator in smooth and one more mode, for what hardly depends on the mode; the others are slow."""
    chosen = [c for c in ELEMENTWISE_CASES if not c[2]]
    lines = [pytest.param(*c, id=_id(*c), marks=slow_unless(c[1] == "smooth" or _in_turn(*c))) for c in chosen]
    return pytest.mark.parametrize(("name", "mode", "options"), lines)


def elementwise_inputs(name, dtype=np.float64):
    """Values on both sides of every kink, with equal pairs for the comparisons."""
    grid = np.linspace(-2.3, 2.4, 40).astype(dtype)
    if ELEMENTWISE[name].arity == 1:
        return (grid,)
    return ELEMENTWISE[name].legal((grid, np.where(np.arange(40) % 5 == 0, grid, np.roll(grid, 3)).astype(dtype)))


@functools.cache
def compiled_elementwise(name, mode, options=()):
    """The elementwise operator under jit, of a tuple of arguments and a traced softness."""
    return jax.jit(lambda args, softness: ELEMENTWISE[name].call(name, args, softness, mode, **dict(options)))


# --- all array operators of one mode and method at once ------------------------------------------------

PRODUCT = pairs(SOFT_MODES)
COMBINATIONS = pytest.mark.parametrize(("mode", "method"), PRODUCT)
REPRESENTATIVES = [*pairs(("smooth",)), ("c0", "softsort"), ("c1", "neuralsort"), ("c2", "ot")]
"""c0, c1 and c2 differ in the degree of a polynomial, which no transform of JAX sees: one for each method."""
ONE_MODE = [("smooth", "softsort"), ("c1", "neuralsort"), ("c2", "ot"), ("smooth", "lapsum")]
"""Every method in one mode, and smooth and sparse modes both."""
VALUE_NAMES = ("sort", "max", "min", "top_k", "quantile", "median")
BUNDLE_NAMES = ("sort", "max", "min", "top_k", "argsort", "argmax", "argquantile", "ranking")
INDEX_NAMES = ("argsort", "argmax", "argtop_k", "argquantile")


def bundle(mode, method, x, softness, names=BUNDLE_NAMES):
    """Array operators along the last axis, as a dict from name to result; top_k brings argtop_k."""
    out = {name: Case(name, mode, method, -1)(x, softness) for name in names}
    if "top_k" in out:
        out["top_k"], out["argtop_k"] = out["top_k"]
    return out


@functools.cache
def compiled_bundle(mode, method, names=BUNDLE_NAMES):
    """The bundle under jit with a traced softness: one compilation per shape serves every law."""
    return jax.jit(lambda x, softness: bundle(mode, method, x, softness, names))


def numpy_bundle(mode, method, x, softness, names=BUNDLE_NAMES):
    """The compiled bundle's results as NumPy arrays."""
    return jax.tree.map(np.asarray, compiled_bundle(mode, method, names)(jnp.asarray(x), softness))
