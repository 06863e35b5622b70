"""Soft samples are jax.random's draws: for the same key, in the limit, in distribution, and with a gradient."""

import inspect
import pickle
from pathlib import Path

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

import softjax as sj

KEY = jax.random.key(3)
LOGITS = cases.sample((4, 5), 1, np.float32)


def test_import():
    """`softjax.random` is there when it is asked for, and in no star import."""
    assert sj.random.categorical is not None and "random" in dir(sj) and "random" not in sj.__all__
    with pytest.raises(AttributeError, match="has no attribute 'randomness'"):
        _ = sj.randomness


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "choice"])
def test_signature(name):
    """Up to `*` jax.random's, without its `mode`, which says how many bits to draw; docs/operators.md has it."""
    own, theirs = (inspect.signature(getattr(module, name)).parameters for module in (sj.random, jax.random))
    positional = {p.name: p.default for p in own.values() if p.kind is not p.KEYWORD_ONLY}
    assert positional == {k: p.default for k, p in theirs.items() if k not in ("mode", "out_sharding")}
    straight = inspect.signature(getattr(sj.random, f"{name}_st")).parameters
    assert list(straight) == list(own)
    text = (Path(__file__).parent.parent / "docs" / "operators.md").read_text(encoding="utf-8")
    assert f"`random.{name}(" in text


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("axis", "lead"), [(-1, ()), (0, (3,)), (1, (2, 2)), (0, (1,))])
def test_categorical_is_jax_randoms_draw(axis, lead, replace):
    """One-hot in the hard mode; the largest weight of a soft one, which goes to it with the softness."""
    shape = lead + tuple(np.delete(LOGITS.shape, axis))
    if not replace and not lead:
        lead, shape = (1,), (1, *shape)
    drawn = jax.random.categorical(KEY, LOGITS, axis, shape, replace)
    asked = KEY, LOGITS, axis, shape, replace
    hard = sj.random.categorical(*asked, mode="hard")
    assert hard.shape == (*shape, LOGITS.shape[axis])
    np.testing.assert_array_equal(hard, jax.nn.one_hot(drawn, LOGITS.shape[axis]))
    soft = sj.random.categorical(*asked)
    np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(sj.random.categorical(*asked, softness=1e-4, mode="c1"), hard, atol=1e-5)
    np.testing.assert_array_equal(sj.random.categorical_st(*asked), hard)


def test_broadcast_draws():
    """Axes of length 1 are drawn anew for every entry of the shape, as jax.random does."""
    logits = LOGITS[:1]
    drawn = jax.random.categorical(KEY, logits, -1, (3, 7))
    hard = sj.random.categorical(KEY, logits, -1, (3, 7), mode="hard")
    np.testing.assert_array_equal(hard.argmax(-1), drawn)


def test_gumbel_softmax():
    """With replacement, by SoftSort, the softmax of noisy logits over softness, and its logarithm."""
    scores = np.asarray(LOGITS + jax.random.gumbel(KEY, LOGITS.shape), np.float64) / 0.3
    expected = np.exp(scores - scores.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(sj.random.categorical(KEY, LOGITS, softness=0.3), expected, rtol=2e-5, atol=1e-6)
    logs = sj.random.categorical(KEY, LOGITS, softness=0.3, return_log_probs=True)
    np.testing.assert_allclose(logs, np.log(expected), rtol=1e-4, atol=1e-4)


def test_categorical_gradient():
    """The soft form's derivative, which the straight-through form has, too; every logit has one."""
    weights = jnp.asarray(cases.sample((5,), 2, np.float32))
    for form in (sj.random.categorical, sj.random.categorical_st):
        slopes = jax.jit(jax.grad(lambda x, form=form: jnp.sum(form(KEY, x, softness=0.5) @ weights)))(LOGITS)
        assert np.all(slopes != 0)
        scores = jnp.asarray(LOGITS) + jax.random.gumbel(KEY, LOGITS.shape)
        expected = jax.grad(lambda s: jnp.sum(jax.nn.softmax(s / 0.5, axis=-1) @ weights))(scores)
        np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bernoulli_is_jax_randoms_draw(dtype):
    """Above 1/2 where it is True, at probabilities near and at the ends, too."""
    p = jnp.asarray(np.linspace(0, 1, 9), dtype)[:, None]
    shape = (9, 500)
    drawn = jax.random.bernoulli(KEY, p, shape)
    hard = sj.random.bernoulli(KEY, p, shape, mode="hard")
    assert hard.dtype == p.dtype
    np.testing.assert_array_equal(hard, drawn)
    np.testing.assert_array_equal(sj.random.bernoulli_st(KEY, p, shape), drawn)
    for mode in ("smooth", "c1"):
        soft = np.asarray(sj.random.bernoulli(KEY, p, shape, softness=0.3, mode=mode), np.float32)
        apart = soft != 0.5  # by rounding
        assert apart.mean() > 0.99
        np.testing.assert_array_equal((soft > 0.5)[apart], np.asarray(drawn)[apart])
    assert sj.random.bernoulli(KEY).shape == ()


def test_bernoulli_formula():
    """The step of log-odds less logistic noise, and its derivative, 0 at a p of 0 or 1."""
    p = jnp.asarray([0.1, 0.5, 0.9])
    u = np.asarray(jax.random.uniform(KEY, (3,)), np.float64)
    expected = expit((logit(np.asarray(p, np.float64)) - logit(u)) / 0.7)
    np.testing.assert_allclose(sj.random.bernoulli(KEY, p, softness=0.7), expected, rtol=1e-5)
    slopes = jax.grad(lambda p: sj.random.bernoulli(KEY, p, softness=0.7).sum())(p)
    np.testing.assert_allclose(
        slopes, expected * (1 - expected) / 0.7 / (np.asarray(p) * (1 - np.asarray(p))), rtol=1e-4
    )
    ends = jax.grad(lambda p: sj.random.bernoulli(KEY, p, softness=0.7).sum())(jnp.asarray([0.0, 1.0]))
    np.testing.assert_array_equal(ends, 0)


def test_gradient_of_an_expectation():
    """The mean of relaxed draws learns p as that of hard ones would: its derivative is about 1."""
    slope = jax.grad(lambda p: sj.random.bernoulli(KEY, jnp.full(100_000, p), softness=0.2).mean())(0.3)
    assert abs(slope - 1) < 0.1


P = np.random.default_rng(5).dirichlet(np.ones(6)).astype(np.float32)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((), 0), ((4,), 0), ((2, 2), 1)])
def test_choice_is_jax_randoms_draw(shape, axis, replace):
    """In the hard mode, in the limit of the soft ones, and straight through; of integers, too."""
    a = cases.sample((6, 3), 6, np.float32) if axis == 0 else cases.sample((3, 6), 6, np.float32)
    for elements in (a, 6) if axis == 0 else (a,):
        drawn = jax.random.choice(KEY, elements, shape, replace, jnp.asarray(P), axis)
        asked = KEY, elements, shape, replace, P, axis
        np.testing.assert_array_equal(sj.random.choice(*asked, mode="hard"), drawn)
        np.testing.assert_array_equal(sj.random.choice_st(*asked), drawn)
        found = sj.random.choice(*asked, softness=1e-5, mode="c0")
        assert found.shape == drawn.shape
        np.testing.assert_allclose(found, drawn, atol=1e-4)
        np.testing.assert_array_equal(
            sj.random.choice(KEY, elements, shape, replace, axis=axis),
            jax.random.choice(KEY, elements, shape, replace, axis=axis),
        )


def test_choice_learns_the_expectation():
    """The derivative of the mean of draws, by p, is that of sum(p a) / sum(p), at any softness; by a it is p's."""
    a = jnp.asarray(cases.sample((6,), 7), jnp.float32)
    mean = lambda p, a, **how: sj.random.choice(KEY, a, (200_000,), p=p, softness=0.01, **how).mean()
    by_p, by_a = jax.jit(jax.grad(mean, (0, 1)))(jnp.asarray(P), a)
    np.testing.assert_allclose(by_p, a - P @ a, atol=0.05)
    np.testing.assert_allclose(by_a, P, atol=0.02)


def test_pickle_and_vmap():
    """The forms are found by name; keys are mapped over."""
    for form in (sj.random.bernoulli_st, sj.random.categorical_st, sj.random.choice_st):
        assert pickle.loads(pickle.dumps(form)) is form
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(lambda key: sj.random.categorical(key, LOGITS))(keys)
    np.testing.assert_allclose(many[1], sj.random.categorical(keys[1], LOGITS), rtol=1e-5, atol=1e-6)


def test_errors():
    """Which argument, and what is legal."""
    with pytest.raises(ValueError, match=r"`p` .* must"):
        sj.random.bernoulli(KEY, 1.5)
    with pytest.raises(ValueError, match=r"`shape` \(=\(2,\)\) must be one that \(3,\), the shape of p, broadcasts to"):
        sj.random.bernoulli(KEY, np.full(3, 0.5, np.float32), (2,))
    with pytest.raises(ValueError, match=r"`shape` .* must be one that \(4,\), the shape of logits without `axis`"):
        sj.random.categorical(KEY, LOGITS, shape=(3,))
    with pytest.raises(ValueError, match="at most 5 draws, the number of categories"):
        sj.random.categorical(KEY, LOGITS, shape=(6, 4), replace=False)
    with pytest.raises(ValueError, match=r"`p.shape` .* must be \(6,\), the number of elements"):
        sj.random.choice(KEY, 6, p=np.full(3, 1 / 3, np.float32))
    with pytest.raises(ValueError, match="at most 6 draws, the number of elements"):
        sj.random.choice(KEY, 6, (7,), False, P)
    with pytest.raises(ValueError, match=r"`mode` \(='firm'\)"):
        sj.random.categorical(KEY, LOGITS, mode="firm")
