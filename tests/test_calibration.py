"""The softness that is found has the wanted measure, by the oracle, and the derivative of the implicit function."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import x64

import softjax as sj

LINES = [
    *((measure, mode, method) for measure in ("entropy", "error") for mode, method in cases.REPRESENTATIVES),
    ("error", "c0", "fast_soft_sort"),
]


def measured(measure, x, softness, **order):
    """Of one row, by the oracle."""
    if measure == "entropy":
        plan = oracle.argsort(x, softness=softness, **order)
        return -np.sum(plan * np.log(np.where(plan > 0, plan, 1)), axis=-1).mean() / np.log(len(x))
    hard = np.sort(x)
    return np.abs(oracle.sort(x, softness=softness, **order) - hard).mean() / np.abs(hard - hard.mean()).mean()


@functools.cache
def compiled(measure, mode, method, per_row=False):
    """The calibration under jit, with a traced goal."""
    return jax.jit(
        lambda x, goal: sj.calibrate_softness(x, per_row=per_row, mode=mode, method=method, **{measure: goal})
    )


@pytest.mark.parametrize(("measure", "mode", "method"), LINES)
def test_goal_is_met(measure, mode, method):
    """On average over rows, and in each; also where keys lie elsewhere and are of another unit."""
    x = cases.sample((3, 7), 1) * np.array([[1.0], [100.0], [1e-3]]) + 5
    order = {"mode": mode, "method": method}
    with x64():
        for goal in (0.03, 0.5):
            each = np.asarray(compiled(measure, mode, method, per_row=True)(jnp.asarray(x), goal))
            assert each.shape == (3,)
            for row, softness in zip(x, each, strict=True):
                np.testing.assert_allclose(measured(measure, row, softness, **order), goal, rtol=0, atol=2e-6)
        both = float(compiled(measure, mode, method)(jnp.asarray(x), 0.3))
        mean = np.mean([measured(measure, row, both, **order) for row in x])
        np.testing.assert_allclose(mean, 0.3, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("measure", "mode", "method"), LINES[::2])
def test_derivative(measure, mode, method):
    """By the input and by the goal, against differences."""
    x, direction = cases.sample(9, 2), np.random.default_rng(3).normal(size=9)
    find = compiled(measure, mode, method)
    with x64():
        slopes = jax.grad(find, (0, 1))(jnp.asarray(x), 0.2)
        step = 1e-4
        along = (find(x + step * direction, 0.2) - find(x - step * direction, 0.2)) / (2 * step)
        by_goal = (find(x, 0.2 + step) - find(x, 0.2 - step)) / (2 * step)
        scale = np.linalg.norm(slopes[0])
        np.testing.assert_allclose(np.vdot(slopes[0], direction), along, rtol=0, atol=2e-3 * scale)
        np.testing.assert_allclose(slopes[1], by_goal, rtol=2e-3)


@pytest.mark.parametrize("method", ["softsort", "ot"])
def test_long_rows(method):
    """In float32, by some of the ranks: what all of them say is near."""
    x = cases.sample((2, 600), 4, np.float32)
    softness = float(sj.calibrate_softness(x, entropy=0.4, method=method))
    rows = np.asarray(sj.argsort(x, softness=softness, method=method), np.float64)
    entropy = -np.sum(rows * np.log(np.where(rows > 0, rows, 1)), axis=-1).mean() / np.log(600)
    assert abs(entropy - 0.4) < 2e-3


def test_axes_and_transforms():
    """As every operator along an axis; the softness goes where softness goes."""
    x = cases.sample((4, 6), 5, np.float32)
    rows = sj.calibrate_softness(x, error=0.1, per_row=True)
    np.testing.assert_allclose(sj.calibrate_softness(x.T, 0, error=0.1, per_row=True), rows, rtol=1e-5)
    flat = sj.calibrate_softness(x, None, error=0.1)
    np.testing.assert_allclose(flat, sj.calibrate_softness(x.reshape(-1), error=0.1), rtol=1e-5)
    mapped = jax.vmap(lambda x: sj.calibrate_softness(x, error=0.1))(x)
    np.testing.assert_allclose(mapped, rows, rtol=1e-5)
    goals = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    several = sj.calibrate_softness(x, error=goals, per_row=True)
    np.testing.assert_allclose(several[0], rows[0], rtol=1e-5)
    assert np.all(several[1:] > rows[1:])
    assert sj.sort(x, softness=several).shape == x.shape
    half = sj.calibrate_softness(x.astype(jnp.bfloat16), error=0.1)
    assert half.dtype == jnp.bfloat16


def test_what_cannot_be_attained():
    """Constant rows are as soft at any softness: an end of the range, and no NaN in the derivative."""
    x = jnp.full((2, 5), 3.0)
    for name in ("entropy", "error"):
        value, slope = jax.value_and_grad(lambda x, name=name: sj.calibrate_softness(x, **{name: 0.3}))(x)
        assert np.isfinite(value) and value > 0 and np.all(slope == 0)


def test_errors():
    """Each says which argument, and what is legal."""
    x = cases.sample((2, 5), 6, np.float32)
    for given in ({}, {"entropy": 0.1, "error": 0.1}):
        with pytest.raises(TypeError, match="Exactly one of `entropy` and `error` must be given"):
            sj.calibrate_softness(x, **given)
    with pytest.raises(ValueError, match=r"`entropy` \(=1.5\) must be"):
        sj.calibrate_softness(x, entropy=1.5)
    with pytest.raises(ValueError, match=r"`mode` \(='hard'\) must be a soft one"):
        sj.calibrate_softness(x, error=0.1, mode="hard")
    with pytest.raises(ValueError, match="must be one with soft indices"):
        sj.calibrate_softness(x, entropy=0.1, mode="c0", method="fast_soft_sort")
    with pytest.raises(ValueError, match="at least two elements"):
        sj.calibrate_softness(x[:, :1], error=0.1)
    with pytest.raises(ValueError, match="`error.shape`"):
        sj.calibrate_softness(x, error=np.array([0.1, 0.2, 0.3]), per_row=True)
