"""Brute-force float64 NumPy written from the definitions, independent of the package.

Everything works on one row (a 1-D array) with one softness; `along` applies a row function over an axis.
Simplex projections are found by bisection, transport plans by minimising the convex semi-dual with a damped
Newton method until the marginals hold to rounding. Nothing here is meant to be fast.
"""

import functools
import math

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import expit, xlogy

DEGREES = {"c0": 1, "c1": 2, "c2": 3}


# --- modes ---------------------------------------------------------------------------------------------


def step(t, mode):
    """The soft step S(t), and the Heaviside step with value 1/2 at zero in hard mode."""
    t = np.asarray(t, np.float64)
    if mode == "hard":
        return np.where(t == 0, 0.5, (t > 0) * 1.0)
    if mode == "smooth":
        return expit(t)
    u = np.clip(t / 10 + 0.5, 0, 1)
    return {"c0": u, "c1": 3 * u**2 - 2 * u**3, "c2": 6 * u**5 - 15 * u**4 + 10 * u**3}[mode]


def ramp(t, mode):
    """The integral of the step from -infinity to t."""
    t = np.asarray(t, np.float64)
    if mode == "hard":
        return np.maximum(t, 0)
    if mode == "smooth":
        return np.logaddexp(0, t)
    u = np.clip(t / 10 + 0.5, 0, 1)
    inside = {"c0": u**2 / 2, "c1": u**3 - u**4 / 2, "c2": u**6 - 3 * u**5 + 2.5 * u**4}[mode]
    return 10 * inside + np.maximum(t - 5, 0)


def project(logits, mode):
    """Projects every row of `logits` on the simplex: softmax, or max(z - theta, 0)^m with theta by bisection."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    if mode == "smooth":
        return np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    degree = DEGREES[mode]
    low, high = np.full(z.shape[:-1] + (1,), -1.0), np.zeros(z.shape[:-1] + (1,))
    for _ in range(64):
        middle = (low + high) / 2
        too_much = (np.maximum(z - middle, 0) ** degree).sum(-1, keepdims=True) > 1
        low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
    return np.maximum(z - (low + high) / 2, 0) ** degree


# --- elementwise ---------------------------------------------------------------------------------------


def relu(x, softness, mode, gated=False):
    """softness * R(x / softness), or x * S(x / softness)."""
    if mode == "hard":
        return np.maximum(x, 0.0)
    return x * step(x / softness, mode) if gated else softness * ramp(x / softness, mode)


def clip(x, low, high, softness, mode, gated=False):
    """low + relu(x - low) - relu(x - high); None or an infinity is no bound; high where they cross, as in JAX."""
    low, high = (None if b is None or np.isinf(b) else b for b in (low, high))
    if low is not None and high is not None:
        low = min(low, high)
    if low is None and high is None:
        return x
    if low is None:
        return x if high is None else x - relu(x - high, softness, mode, gated)
    above = low + relu(x - low, softness, mode, gated)
    return above if high is None else above - relu(x - high, softness, mode, gated)


def sign(x, softness, mode):
    """2 S - 1."""
    return np.sign(x) if mode == "hard" else 2 * step(x / softness, mode) - 1


def soft_abs(x, softness, mode):
    """x times its soft sign."""
    return x * sign(x, softness, mode)


def soft_round(x, softness, mode, decimals=0):
    """A step at every half-integer: those below count up from zero, those above count down."""
    if mode == "hard":
        return np.round(x, decimals)
    y = np.asarray(x, np.float64) * 10.0**decimals
    softness = np.asarray(softness, np.float64)[..., None]
    reach = math.ceil(np.abs(y).max() + 45 * softness.max() + 2)
    k = np.arange(-reach, reach + 1)
    t = (y[..., None] - k - 0.5) / softness
    return np.where(k >= 0, step(t, mode), -step(-t, mode)).sum(-1) / 10.0**decimals


def floor(x, softness, mode):
    """A step at every integer: those from 1 on count up from zero, the others down."""
    return np.floor(x) if mode == "hard" else soft_round(np.asarray(x, np.float64) - 0.5, softness, mode)


def ceil(x, softness, mode):
    """The same steps, one higher."""
    return np.ceil(x) if mode == "hard" else floor(x, softness, mode) + 1


def trunc(x, softness, mode):
    """No step at 0."""
    return np.trunc(x) if mode == "hard" else floor(x, softness, mode) + 1 - step(x / softness, mode)


def mod(x, y, softness, mode):
    """x less the periods below it."""
    return np.mod(x, y) if mode == "hard" else x - y * floor(x / y, softness / np.abs(y), mode)


def greater(x, y, softness, mode):
    """S((x - y) / softness)."""
    return (x > y) * 1.0 if mode == "hard" else step((x - y) / softness, mode)


def greater_equal(x, y, softness, mode):
    """The same step; only the hard form differs, at equality."""
    return (x >= y) * 1.0 if mode == "hard" else step((x - y) / softness, mode)


def equal(x, y, softness, mode, normalize=False):
    """S(-|x - y| / softness), a half at equality; normalised, one there: 1 / cosh in the smooth mode."""
    if mode == "hard":
        return (x == y) * 1.0
    t = (x - y) / softness
    if not normalize:
        return step(-np.abs(t), mode)
    if mode == "smooth":
        return 2 * np.exp(-np.abs(t)) / (1 + np.exp(-2 * np.abs(t)))
    return 2 * step(t, mode) * step(-t, mode) / (step(t, mode) ** 2 + step(-t, mode) ** 2)


def isclose(a, b, softness, mode, rtol=1e-5, atol=1e-8, normalize=False):
    """S((tolerance - |a - b|) / softness); normalised, `equal`'s form with the tolerance, one at a == b."""
    if mode == "hard":
        return np.isclose(a, b, rtol, atol) * 1.0
    tolerance = atol + rtol * np.abs(b)
    if not normalize:
        return step((tolerance - np.abs(a - b)) / softness, mode)
    peak = step(tolerance / softness, mode)
    both = step((tolerance - (a - b)) / softness, mode) * step((tolerance + (a - b)) / softness, mode)
    return 1 / (1 + peak * (1 / np.maximum(both, 1e-300) - 1 / peak**2))


# --- logic ---------------------------------------------------------------------------------------------


def soft_all(a, geometric=True):
    """Geometric mean with a floor of 1e-10, or the product, over the last axis."""
    return np.exp(np.log(np.maximum(a, 1e-10)).mean(-1)) if geometric else np.prod(a, -1)


def soft_any(a, geometric=True):
    """De Morgan's dual of `soft_all`."""
    return 1 - soft_all(1 - a, geometric)


def logical_and(x, y, geometric=True):
    """Two-element `soft_all`."""
    return soft_all(np.stack([x, y], -1), geometric)


def logical_or(x, y, geometric=True):
    """Two-element `soft_any`."""
    return soft_any(np.stack([x, y], -1), geometric)


def logical_xor(x, y, geometric=True):
    """(x and not y) or (not x and y)."""
    return logical_or(logical_and(x, 1 - y, geometric), logical_and(1 - x, y, geometric), geometric)


# --- soft permutation ----------------------------------------------------------------------------------


def standardized(x):
    """sigmoid((x - mean) / std) with the population's std, or 1 for a constant row."""
    centred = x - x.mean()
    std = math.sqrt((centred**2).mean())
    return 1 / (1 + np.exp(-centred / (std if std > 0 else 1.0)))


def _semidual(g, cost, masses, softness, mode):
    """Value, gradient, Hessian of the semi-dual at column potentials g, and the plan."""
    logits = (g - cost) / softness
    plan = project(logits, mode)
    if mode == "smooth":
        conjugate, weight = (plan * logits).sum() - xlogy(plan, plan).sum(), plan
    else:
        m = DEGREES[mode]
        conjugate = (plan * logits).sum() - m / (m + 1) * (plan ** ((m + 1) / m)).sum()
        weight = m * plan ** ((m - 1) / m) * (plan > 0)
    hessian = np.diag(weight.sum(0)) - (weight / weight.sum(1, keepdims=True)).T @ weight
    return softness * conjugate - masses @ g, plan.sum(0) - masses, hessian / softness, plan


def transport(y, masses, softness, mode):
    """`_transport` of one problem, remembered: many operators ask for the same plan."""
    y, masses = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(masses, np.float64)
    return _transport(y.tobytes(), masses.tobytes(), float(softness), mode)


@functools.lru_cache(4096)
def _transport(y, masses, softness, mode):
    """Regularised plan from the points y (mass 1 each) to anchors linspace(0, 1) of the given masses.

    Row i is the projection of (g - (y_i - anchors)^2) / softness, g makes the columns sum to `masses`.
    """
    y, masses = np.frombuffer(y), np.frombuffer(masses)
    bins = len(masses)
    if bins == 1:
        return np.ones((len(y), 1))
    cost = (y[:, None] - np.linspace(0, 1, bins)) ** 2
    g = np.zeros(bins)
    for scale in 2.0 ** np.arange(max(0, math.ceil(math.log2(8 / softness))), -1, -1):
        g, residual, plan = _minimise_semidual(g, cost, masses, softness * scale, mode)
    assert residual < 1e-11 * len(y), f"the plan did not converge: {residual}"
    return plan


def _minimise_semidual(g, cost, masses, softness, mode):
    """Levenberg-Marquardt from g until the marginals hold to rounding; returns g, the residual and the plan."""
    damping = 1e-6
    value, residual, hessian, plan = _semidual(g, cost, masses, softness, mode)
    for _ in range(300):
        if np.abs(residual).max() < 1e-14 * len(cost) or damping > 1e14:
            break
        scale = max(np.trace(hessian) / len(g), 1e-6 / softness)
        direction = np.linalg.solve(hessian + (damping + 1e-12) * scale * np.eye(len(g)), -residual)
        trial = g + direction - direction.mean()
        new = _semidual(trial, cost, masses, softness, mode)
        # Near the optimum the value no longer resolves a step, so a smaller residual counts as well.
        if new[0] < value - 1e-12 * abs(value) or np.abs(new[1]).sum() < np.abs(residual).sum():
            g, damping = trial, damping / 10
            value, residual, hessian, plan = new
        else:
            damping = max(damping, 1e-12) * 4
    return g, np.abs(residual).max(), plan


def transport_rows(y, ranks, softness, mode):
    """Rows for ascending wanted ranks: a filler bin for each gap and a bin of mass 1 for each wanted rank."""
    masses, where, following = [], [], 0
    for rank in ranks:
        if rank > following:
            masses.append(rank - following)
        where.append(len(masses))
        masses.append(1)
        following = rank + 1
    if following < len(y):
        masses.append(len(y) - following)
    return transport(y, np.asarray(masses, np.float64), softness, mode)[:, where].T


def rows(x, ranks, softness, mode, method, standardize=None):
    """Rows of the soft permutation for ascending zero-based ranks (half-integers for neuralsort)."""
    x, ranks = np.asarray(x, np.float64), np.asarray(ranks)
    n = len(x)
    if mode == "hard":
        return np.eye(n)[np.argsort(x, kind="stable")[ranks.astype(int)]]
    y = standardized(x) if (method == "ot" if standardize is None else standardize) else x
    if method == "softsort":
        return project(-np.abs(np.sort(y)[ranks][:, None] - y) / softness, mode)
    if method == "neuralsort":
        spread = np.abs(y[:, None] - y).sum(0)
        return project(((2 * ranks[:, None] + 1 - n) * y - spread) / softness, mode)
    if method == "lapsum":
        return np.stack([laplace_shares(y, r + 1, softness) - laplace_shares(y, r, softness) for r in ranks])
    return transport_rows(y, list(ranks), softness, mode)


def laplace(t):
    """Laplace's distribution function."""
    tail = np.exp(-np.abs(t)) / 2
    return np.where(t < 0, tail, 1 - tail)


def laplace_shares(x, count, softness):
    """What elements have below the threshold below which all have `count`, which is found by bisection."""
    if count in (0, len(x)):
        return np.full(len(x), count / len(x))
    low, high = x.min() - 100 * softness, x.max() + 100 * softness
    for _ in range(200):
        middle = (low + high) / 2
        enough = laplace((middle - x) / softness).sum() > count
        low, high = (low, middle) if enough else (middle, high)
    return laplace(((low + high) / 2 - x) / softness)


def on_permutahedron(a, b):
    """The point nearest to a of the permutahedron of b, both ascending."""
    return a - isotonic_regression(a - b).x


def values(x, ranks, softness, mode, method, standardize=None):
    """Soft order statistics at whole ranks: rows applied to x, or anchors projected onto the keys' permutahedron."""
    x = np.asarray(x, np.float64)
    if method != "fast_soft_sort" or mode == "hard":
        return rows(x, ranks, softness, mode, method, standardize) @ x
    anchors = np.linspace(0, 1, len(x)) / softness * (1 if standardize is False else deviation(x))
    return on_permutahedron(anchors, np.sort(x))[np.asarray(ranks)]


def deviation(x):
    """The standard deviation, 1 for a constant row."""
    return x.std() if x.std() > 0 else 1.0


def some_rows(x, ranks, softness, mode, method):
    """`rows` of SoftSort and NeuralSort for a long x: sums of distances from prefix sums instead of n x n of them."""
    if method == "softsort":
        return rows(x, ranks, softness, mode, method)
    s, n = np.sort(x), len(x)
    before = np.concatenate([[0.0], np.cumsum(s)])
    place = np.searchsorted(s, x)
    spread = x * (2 * place - n) + before[-1] - 2 * before[place]
    return project(((2 * ranks[:, None] + 1 - n) * x - spread) / softness, mode)


def ranking(x, softness, mode, method, standardize=None, descending=True):
    """Zero-based soft rank of every element; in hard mode the average rank of ties."""
    x = np.asarray(x, np.float64)
    n = len(x)
    positions = np.arange(n)[::-1] if descending else np.arange(n)
    if mode == "hard":
        below, same = (x[:, None] > x).sum(1), (x[:, None] == x).sum(1)
        ascending = below + (same - 1) / 2
        return n - 1 - ascending if descending else ascending
    if method == "softsort":
        y = standardized(x) if standardize else x
        return project(-np.abs(y[:, None] - np.sort(y)) / softness, mode) @ positions
    if method == "fast_soft_sort":
        y = x / softness / (1 if standardize is False else deviation(x))
        ascending = np.empty(n)
        ascending[np.argsort(x)] = on_permutahedron(np.sort(y), np.linspace(0, 1, n)) * (n - 1)
        return n - 1 - ascending if descending else ascending
    if method == "lapsum":
        y = standardized(x) if standardize else x
        ascending = laplace((y[:, None] - y) / softness).sum(1) - 0.5
        return n - 1 - ascending if descending else ascending
    plan = rows(x, np.arange(n), softness, mode, method, standardize)
    return (positions @ plan) / plan.sum(0)


def quantile_rank(x, q, quantile_method="linear"):
    """The real rank of the q-quantile."""
    rank = q * (len(x) - 1)
    low, high = math.floor(rank), math.ceil(rank)
    fraction = rank - low
    return {
        "linear": rank,
        "lower": low,
        "higher": high,
        "midpoint": (low + high) / 2,
        "nearest": low if fraction <= 0.5 else high,
    }[quantile_method]


def quantile_row(x, q, softness, mode, method, standardize=None, quantile_method="linear"):
    """The row of weights of the q-quantile."""
    spacing = 2 if method == "neuralsort" and mode != "hard" else 1
    place = quantile_rank(x, q, quantile_method) * spacing
    low, high = math.floor(place), math.ceil(place)
    fraction = place - low

    def row(r):
        ranks = np.asarray([r / spacing if spacing == 2 else r])
        return rows(x, ranks, softness, mode, method, standardize)[0]

    return row(low) if fraction == 0 else (1 - fraction) * row(low) + fraction * row(high)


# --- operators on one row ------------------------------------------------------------------------------


def argsort(x, descending=False, **order):
    """All rows."""
    plan = rows(x, np.arange(len(x)), **order)
    return plan[::-1] if descending else plan


def sort(x, descending=False, **order):
    """The value of every rank."""
    ascending = values(x, np.arange(len(x)), **order)
    return ascending[::-1] if descending else ascending


def argmax(x, **order):
    """The last row."""
    if order["mode"] == "hard":
        return np.eye(len(x))[np.argmax(x)]
    return rows(x, [len(x) - 1], **order)[0]


def argmin(x, **order):
    """The first row."""
    return rows(x, [0], **order)[0]


def soft_max(x, **order):
    """The value of the last rank."""
    return values(x, [len(x) - 1], **order)[0]


def soft_min(x, **order):
    """The value of the first rank."""
    return values(x, [0], **order)[0]


def argtop_k(x, k, **order):
    """The last k rows, largest first."""
    return rows(x, np.arange(len(x) - k, len(x)), **order)[::-1]


def top_k(x, k, **order):
    """The last k values, largest first, and rows where the method has them."""
    if order["method"] == "fast_soft_sort":
        return (values(x, np.arange(len(x) - k, len(x)), **order)[::-1],)
    plan = argtop_k(x, k, **order)
    return plan @ x, plan


def bottom_k(x, k, **order):
    """The same of -x."""
    found, *plan = top_k(-np.asarray(x), k, **order)
    return (-found, *plan)


def top_k_mask(x, k, softness, mode, method, standardize=None):
    """The sum of the last k rows, k real; with transport the upper of two anchors of masses n - k and k."""
    x = np.asarray(x, np.float64)
    n = len(x)
    if mode == "hard":
        mask = np.empty(n)
        mask[np.argsort(-x, kind="stable")] = np.clip(k - np.arange(n), 0, 1)
        return mask
    if method == "lapsum":
        return 1 - laplace_shares(standardized(x) if standardize else x, n - k, softness)
    if method == "fast_soft_sort":
        y = x / softness / (1 if standardize is False else deviation(x))
        mask = np.empty(n)
        mask[np.argsort(x)] = on_permutahedron(np.sort(y), np.clip(k - np.arange(n), 0, 1)[::-1])
        return mask
    if method != "ot":
        return np.clip(k - np.arange(n)[::-1], 0, 1) @ rows(x, np.arange(n), softness, mode, method, standardize)
    if k in (0, n):
        return np.full(n, k / n)
    y = x if standardize is False else standardized(x)
    return transport(y, [n - k, k], softness, mode)[:, 1]


def bottom_k_mask(x, **options):
    """The mask of -x."""
    return top_k_mask(-np.asarray(x), **options)


def rank(x, **order):
    """One-based ranking."""
    return 1 + ranking(x, **order)


def quantile(x, q, **order):
    """The quantile's row applied to x, or a blend of two values."""
    if order["method"] != "fast_soft_sort" or order["mode"] == "hard":
        return quantile_row(x, q, **order) @ x
    place = quantile_rank(x, q, order.pop("quantile_method", "linear"))
    return np.interp(place, np.arange(len(x)), sort(x, **order))


def along(function, x, axis, softness, **options):
    """Applies a row function along `axis` (None flattens, a tuple joins axes); new axes stand where JAX puts them.

    The result of `function` may be a scalar, a vector along the axis (values), a vector over [n] (one
    distribution) or a matrix (a distribution for each wanted rank); `options["index"]` tells the latter two.
    """
    index = options.pop("index", False)
    x = np.asarray(x, np.float64)
    if axis is None:
        return function(x.ravel(), softness=float(softness), **options)
    if isinstance(axis, tuple):
        rest = [d for d in range(x.ndim) if d not in {a % x.ndim for a in axis}]
        x = x.transpose(rest + sorted(a % x.ndim for a in axis)).reshape([x.shape[d] for d in rest] + [-1])
        axis = -1
    axis = axis % x.ndim
    moved = np.moveaxis(x, axis, -1)
    batch = moved.shape[:-1]
    softness = np.broadcast_to(np.asarray(softness, np.float64), batch)
    out = [function(moved[i], softness=softness[i], **options) for i in np.ndindex(batch)]
    if isinstance(out[0], tuple):
        return tuple(_stacked([o[j] for o in out], batch, axis, j == 1) for j in range(len(out[0])))
    return _stacked(out, batch, axis, index)


def _stacked(out, batch, axis, index):
    """Puts the rows' results back: the axis of ranks where `axis` was, a distribution last."""
    out = np.asarray(out)
    out = out.reshape(batch + out.shape[1:])
    ranks = out.ndim - len(batch) - index
    return np.moveaxis(out, len(batch), axis) if ranks else out
