"""LapSum's soft top-k mask by its published formula (Struski et al., arXiv:2503.06242): it is in no package index.

With F(b) = sum_j L((b - x_j) / a), L the distribution function of Laplace's distribution, the mask is L((x_i - b) / a)
for the b where F(b) = n - k. Between two neighbours in sorted order F is a constant and two exponentials, so that b is
the root of a quadratic; recurrences over the sorted keys say between which.
"""

import jax
import jax.numpy as jnp
from jax import lax


def cdf(t: jax.Array) -> jax.Array:
    """Laplace's distribution function."""
    tail = jnp.exp(-jnp.abs(t)) / 2
    return jnp.where(t < 0, tail, 1 - tail)


def weights(s: jax.Array) -> jax.Array:
    """For ascending s (b, n) the sums over i <= j of exp(s_i - s_j), by their recurrence."""

    def step(before, gap):
        now = 1 + before * jnp.exp(-gap)
        return now, now

    gaps = jnp.diff(s, axis=1, prepend=s[:, :1])
    return lax.scan(step, jnp.zeros_like(s[:, 0]), gaps.T)[1].T


def thresholds(x: jax.Array, k: int, a: float) -> jax.Array:
    """The b of every row of x (b, n), a column, for k up to n / 2."""
    n = x.shape[1]
    s = jnp.sort(x, axis=1) / a
    up, down = weights(s), weights(-s[:, ::-1])[:, ::-1] - 1  # of keys up to s_j, itself included, and beyond it
    count = jnp.arange(1, n + 1, dtype=x.dtype)
    # The last s_j below b: F ascends.
    j = jnp.clip(jnp.sum(count - up / 2 + down / 2 <= n - k, axis=1, keepdims=True) - 1, 0, n - 1)
    later = jnp.minimum(j + 1, n - 1)
    own, following, up, down = (jnp.take_along_axis(a, i, 1) for a, i in ((s, j), (s, later), (up, j), (down, j)))
    # up u^2 - 2 (j + 1 - (n - k)) u - down = 0 for u = exp(s_j - b / a); where all of it vanishes F is flat.
    c = j + 1 - (n - k)
    root = jnp.sqrt(c**2 + up * down)
    u = jnp.where(c > 0, (c + root) / up, down / (root - c))
    return a * jnp.where(root == 0, (own + following) / 2, own - jnp.log(u))


def mask(x: jax.Array, k: int, a: float) -> jax.Array:
    """The mask of every row of x (b, n); its derivative is that of one Newton step from the root."""
    b = lax.stop_gradient(thresholds(x, k, a))
    slope = lax.stop_gradient(jnp.exp(-jnp.abs(x - b) / a) / (2 * a))
    excess = jnp.sum(cdf((x - b) / a), axis=1, keepdims=True) - k
    total = jnp.sum(slope, axis=1, keepdims=True)
    moved = b + jnp.where(total > 0, (excess - lax.stop_gradient(excess)) / total, jnp.zeros_like(b))
    return cdf((x - moved) / a)
