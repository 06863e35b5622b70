"""Ranking losses: their hard values by definition and by scipy, lists of different lengths, gradients, memory."""

import inspect
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import x64
from scipy.stats import spearmanr

from softjax import losses

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(3, 12))
RELEVANCE = RNG.integers(0, 4, size=(3, 12)).astype(float)
LENGTHS = (12, 7, 3)
WHERE = np.arange(12) < np.array(LENGTHS)[:, None]
TAKES_INFINITIES = [
    ("smooth", "softsort"),
    ("c1", "softsort"),
    ("smooth", "neuralsort"),
    ("smooth", "lapsum"),
    ("hard", "softsort"),
]
LOSSES = {
    "ndcg": lambda x, y, **how: losses.ndcg_loss(x, y, **how),
    "ndcg at 2": lambda x, y, **how: losses.ndcg_loss(x, y, k=2, **how),
    "spearman": lambda x, y, **how: losses.spearman_loss(x, y, **how),
    "precision": lambda x, y, **how: losses.precision_loss(x, y > 1, 2, **how),
    "recall": lambda x, y, **how: losses.recall_loss(x, y > 1, 2, **how),
}


def ndcg(scores, relevance, k=None):
    """By its definition, of hard ranks."""
    order = np.argsort(-scores)[:k]
    best = np.sort(relevance)[::-1][:k]
    discount = 1 / np.log2(2 + np.arange(len(order)))
    return np.sum((2 ** relevance[order] - 1) * discount) / np.sum((2**best - 1) * discount)


def test_hard_values():
    """The metrics themselves."""
    chosen = SCORES >= np.sort(SCORES, -1)[:, -4:-3]
    relevant = RELEVANCE > 1
    with x64():
        x, y = jnp.asarray(SCORES), jnp.asarray(RELEVANCE)
        found = losses.ndcg_loss(x, y, mode="hard"), losses.ndcg_loss(x, y, k=4, mode="hard")
        linear = losses.ndcg_loss(x, y, gain=lambda r: r, mode="hard")
        correlation = losses.spearman_loss(x, y, mode="hard")
        shares = losses.precision_loss(x, relevant, 4, mode="hard"), losses.recall_loss(x, relevant, 4, mode="hard")
    pairs = [*zip(SCORES, RELEVANCE, strict=True)]
    np.testing.assert_allclose(found[0], [1 - ndcg(*pair) for pair in pairs], atol=1e-12)
    np.testing.assert_allclose(found[1], [1 - ndcg(*pair, k=4) for pair in pairs], atol=1e-12)
    np.testing.assert_allclose(linear, [1 - ndcg(s, np.log2(1 + r)) for s, r in pairs], atol=1e-12)
    np.testing.assert_allclose(correlation, [1 - spearmanr(*pair).statistic for pair in pairs], atol=1e-12)
    np.testing.assert_allclose(shares[0], 1 - (chosen & relevant).sum(-1) / 4, atol=1e-12)
    np.testing.assert_allclose(shares[1], 1 - (chosen & relevant).sum(-1) / relevant.sum(-1), atol=1e-12)


def test_soft_values():
    """With the oracle's soft ranks and masks in place of hard ones."""
    how = {"softness": 0.3, "mode": "smooth"}
    with x64():
        found = losses.ndcg_loss(jnp.asarray(SCORES), jnp.asarray(RELEVANCE), **how)
        recall = losses.recall_loss(jnp.asarray(SCORES), jnp.asarray(RELEVANCE > 1), 4, **how)
    for value, share, scores, relevance in zip(found, recall, SCORES, RELEVANCE, strict=True):
        ranks = oracle.rank(scores, method="softsort", **how)
        best = np.sum((2 ** np.sort(relevance)[::-1] - 1) / np.log2(2 + np.arange(12)))
        np.testing.assert_allclose(value, 1 - np.sum((2**relevance - 1) / np.log2(1 + ranks)) / best, atol=1e-10)
        mask = oracle.top_k_mask(scores, 4, method="lapsum", **how)
        np.testing.assert_allclose(share, 1 - mask @ (relevance > 1) / np.sum(relevance > 1), atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("mode", "method"), TAKES_INFINITIES)
def test_where_is_the_shorter_list(name, mode, method):
    """Values and gradients, whatever stands in what is left out, NaN included."""
    how = {"mode": mode, "method": method}
    call = lambda x, y, **more: LOSSES[name](x, y, **how, **more)
    with x64():
        x, y = jnp.asarray(np.where(WHERE, SCORES, np.nan)), jnp.asarray(np.where(WHERE, RELEVANCE, 3.0))
        values = np.asarray(call(x, y, where=WHERE))
        slopes = np.asarray(jax.grad(lambda x: call(x, y, where=WHERE).sum())(x))
        for i, n in enumerate(LENGTHS):
            short = jnp.asarray(SCORES[i, :n]), jnp.asarray(RELEVANCE[i, :n])
            np.testing.assert_allclose(values[i], call(*short), atol=1e-9)
            np.testing.assert_allclose(slopes[i, :n], jax.grad(call)(*short), atol=1e-7)
            np.testing.assert_array_equal(slopes[i, n:], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    """By scores and softness, against differences; an axis in front, and vmap."""
    direction = np.random.default_rng(1).normal(size=SCORES.shape)
    with x64():
        y = jnp.asarray(RELEVANCE)
        total = lambda t: LOSSES[name](SCORES + t[0] * direction, y, softness=0.2 + t[1]).sum()
        slopes = jax.jit(jax.grad(total))(jnp.zeros(2))
        step = 1e-5
        ahead = [
            (total(jnp.zeros(2).at[i].set(step)) - total(jnp.zeros(2).at[i].set(-step))) / (2 * step) for i in (0, 1)
        ]
        np.testing.assert_allclose(slopes, ahead, rtol=1e-5, atol=1e-8)
        rows = LOSSES[name](jnp.asarray(SCORES), y)
        np.testing.assert_allclose(LOSSES[name](jnp.asarray(SCORES.T), y.T, axis=0), rows, atol=1e-12)
        np.testing.assert_allclose(jax.vmap(LOSSES[name])(jnp.asarray(SCORES), y), rows, atol=1e-12)


def test_nothing_to_find():
    """No gradient and a loss of 0, where nothing is relevant, or nothing is there; precision is 0 then."""
    x = jnp.asarray(SCORES, jnp.float32)
    for name, loss in LOSSES.items():
        for more in ({}, {"where": np.zeros((3, 12), bool)}):
            total = lambda x, loss=loss, more=more: loss(x, jnp.zeros((3, 12)), **more).sum()
            value, slope = jax.value_and_grad(total)(x)
            assert value == (3 if name == "precision" else 0) and np.all(slope == 0), (name, more)


def test_long_lists():
    """NDCG of 100,000 documents takes memory as its scores do, with its gradient."""
    shape = lambda n: jax.ShapeDtypeStruct((n,), jnp.float32)
    both = jax.value_and_grad(lambda x, y: losses.ndcg_loss(x, y, k=10))
    sizes = [
        jax.jit(both).lower(shape(n), shape(n)).compile().memory_analysis().temp_size_in_bytes
        for n in (25_000, 100_000)
    ]
    assert sizes[1] < 4.4 * sizes[0] and sizes[1] < 100_000 * 4 * 60
    n = 500
    x, y = RNG.normal(size=n), RNG.integers(0, 4, size=n).astype(float)
    with x64():
        ranks = np.asarray(jax.nn.softmax(-jnp.abs(x[:, None] - np.sort(x)) / 0.1, axis=-1)) @ np.arange(n)[::-1]
        best = np.sum((2 ** np.sort(y)[::-1] - 1) / np.log2(2 + np.arange(n)))
        expected = 1 - np.sum((2**y - 1) / np.log2(2 + ranks)) / best
        assert math.isclose(losses.ndcg_loss(jnp.asarray(x), jnp.asarray(y)), expected, rel_tol=1e-9)


@pytest.mark.parametrize("name", losses.__all__)
def test_documented(name):
    """With its signature in docs/operators.md, where keywords have a shorthand."""
    own = inspect.signature(getattr(losses, name)).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in own if p.kind is not p.KEYWORD_ONLY]
    text = (Path(__file__).parent.parent / "docs" / "operators.md").read_text(encoding="utf-8")
    assert f"`losses.{name}({', '.join(shown)}, *, " in text
    assert (getattr(losses, name).__doc__ or "").count("**") >= 8


def test_errors():
    """Which argument, and what is legal."""
    x = SCORES.astype(np.float32)
    with pytest.raises(ValueError, match="`relevance.shape`"):
        losses.ndcg_loss(x, np.ones(5))
    with pytest.raises(TypeError, match=r"`where` \(of dtype float32\) must be an array of bools"):
        losses.ndcg_loss(x, x, where=x)
    with pytest.raises(ValueError, match="`k` .* the length of a list"):
        losses.recall_loss(x, x > 0, 13)
    with pytest.raises(ValueError, match="must be finite where it is standardised"):
        losses.ndcg_loss(x, x, method="ot", where=WHERE)


def test_learning():
    """A few steps of gradient descent sort a list."""
    y = jnp.asarray([0.0, 1.0, 2.0, 3.0])
    x = jnp.asarray([0.3, 0.2, 0.1, 0.0])
    for loss in (losses.ndcg_loss, losses.spearman_loss):
        z = x
        step = jax.jit(lambda z, loss=loss: z - jax.grad(lambda z: loss(z, y, softness=0.3))(z))
        for _ in range(200):
            z = step(z)
        np.testing.assert_array_equal(jnp.argsort(z), [0, 1, 2, 3])
