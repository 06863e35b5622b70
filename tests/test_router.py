"""Routing to experts: weights and losses by their definitions, gradients to every expert."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import x64

import softjax as sj

TOKENS, EXPERTS, K = 12, 5, 2


def logits(seed=0, dtype=np.float64):
    """Of two batches."""
    return cases.sample((2, TOKENS, EXPERTS), seed, dtype)


def softmax(x):
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_hard():
    """A softmax of the k largest, and the loss of the Switch Transformer."""
    x = logits()
    with x64():
        weights, mask, loss, active = sj.router(jnp.asarray(x), K, mode="hard")
    chosen = x >= np.sort(x)[..., -K, None]
    np.testing.assert_array_equal(mask, chosen)
    np.testing.assert_allclose(weights, softmax(np.where(chosen, x, -np.inf)), rtol=1e-12, atol=1e-15)
    shares = chosen.mean(-2) / K
    np.testing.assert_allclose(loss, EXPERTS * (shares * softmax(x).mean(-2)).sum(-1), rtol=1e-12)
    np.testing.assert_array_equal(active, chosen.any(-2).sum(-1))


@pytest.mark.parametrize(("mode", "method"), [*cases.REPRESENTATIVES, *cases.pairs(("c0",), cases.VALUE_METHODS)])
def test_soft(mode, method):
    """Weights sum to 1, masks to k, and both are near the hard ones where softness is small."""
    x = logits(1)
    how = {"mode": mode, "method": method}
    with x64():
        found = sj.Routing(*map(np.asarray, sj.router(jnp.asarray(x), K, **how)))
        near = sj.router(jnp.asarray(x), K, softness=1e-5, **how)
        hard = sj.router(jnp.asarray(x), K, mode="hard")
    np.testing.assert_allclose(found.weights.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(found.mask.sum(-1), K, rtol=1e-9)
    for a, b in zip(near, hard, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_even_and_uneven():
    """The loss is 1 where all experts have as much, E / k where k have everything."""
    even = 50 * np.eye(4)[np.arange(8) % 4]
    loss = sj.router(jnp.asarray(even), 1, mode="hard").balance_loss
    np.testing.assert_allclose(loss, 1, rtol=1e-6)
    one = sj.router(jnp.asarray(50 * np.eye(4)[np.zeros(8, int)]), 1, mode="hard")
    np.testing.assert_allclose(one.balance_loss, 4, rtol=1e-6)
    assert one.active_experts == 1


def test_every_expert_learns():
    """The hard form has no gradient for an expert that is not chosen; the soft and the straight-through form have."""
    x = jnp.asarray(logits(2), jnp.float32)
    value = jnp.asarray(cases.sample((EXPERTS,), 3), jnp.float32)

    def output(x, **how):
        return jnp.sum(jnp.sin(sj.router(x, K, **how).weights @ value))

    hard = jax.grad(lambda x: output(x, mode="hard"))(x)
    through = jax.grad(lambda x: output(x, straight_through=True))(x)
    soft = jax.grad(output)(x)
    chosen = np.asarray(sj.router(x, K, mode="hard").mask) == 1
    assert np.all(np.abs(np.asarray(hard)[~chosen]) < 1e-7)  # rounding
    for slope in (through, soft):
        others = np.abs(np.asarray(slope)[~chosen])
        assert np.all(others > 0) and np.median(others) > 1e-3
    forms = [sj.router(x, K, mode="hard"), sj.router(x, K, straight_through=True)]
    for a, b in zip(*forms, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient():
    """Of all results, against differences, by logits, by k and by softness; finite where a mask is full."""
    x, direction = logits(4)[0], cases.sample((TOKENS, EXPERTS), 5)
    weights = cases.sample((TOKENS, EXPERTS), 6)

    def total(t):
        found = sj.router(x + t[0] * direction, K + t[1], softness=0.2 + t[2])
        return jnp.vdot(weights, found.weights) + found.balance_loss + found.active_experts

    with x64():
        at = jnp.zeros(3)
        slopes = jax.jit(jax.grad(total))(at)
        step = 1e-5
        ahead = [(total(at.at[i].set(step)) - total(at.at[i].set(-step))) / (2 * step) for i in range(3)]
        np.testing.assert_allclose(slopes, ahead, rtol=1e-5, atol=1e-7)
    full = jax.grad(lambda x: sj.router(x, EXPERTS).active_experts)(jnp.asarray(x, jnp.float32))
    assert np.all(np.isfinite(full))


def test_shapes_and_transforms():
    """A k for each token, batches, jit and vmap, 16-bit floats."""
    x = jnp.asarray(logits(7), jnp.float32)
    k = jnp.asarray(np.random.default_rng(8).uniform(1, 4, size=(2, TOKENS)), jnp.float32)
    found = jax.jit(sj.router)(x, k)
    assert [a.shape for a in found] == [x.shape, x.shape, (2,), (2,)]
    np.testing.assert_allclose(found.mask.sum(-1), k, rtol=1e-5)
    for a, b in zip(jax.vmap(sj.router)(x, k), found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert {a.dtype for a in sj.router(x.astype(jnp.bfloat16), 2)} == {jnp.dtype(jnp.bfloat16)}


def test_tokens_that_go_nowhere():
    """With k = 0 they have no weights, no place and no gradient through them, and others are as they were."""
    x = jnp.asarray(logits(9)[0], jnp.float32)
    k = jnp.where(jnp.arange(TOKENS) < 4, 0.0, 2.0)
    for how in ({}, {"straight_through": True}):
        found = sj.router(x, k, **how)
        np.testing.assert_array_equal(found.weights[:4], 0)
        np.testing.assert_allclose(found.weights[4:], sj.router(x[4:], 2, **how).weights, rtol=1e-5)
        slopes = jax.grad(lambda x, how=how: jnp.sum(sj.router(x, k, **how).weights ** 2))(x)
        assert np.all(slopes[:4] == 0) and np.all(np.isfinite(slopes))


def test_errors():
    """Which argument, and what is legal."""
    with pytest.raises(ValueError, match=r"`logits.shape` \(=\(3,\)\) must be \(..., tokens, experts\)"):
        sj.router(np.ones(3), 1)
    with pytest.raises(ValueError, match="`k`"):
        sj.router(np.ones((2, 3)), 4)
    with pytest.raises(ValueError, match="`method`"):
        sj.router(np.ones((2, 3)), 1, method="sinkhorn")
    with pytest.raises((TypeError, ValueError), match="straight_through"):
        sj.router(np.ones((2, 3)), 1, straight_through="yes")
