"""The cases that every compiler's kernels pass: values against the oracle, gradients against the float64 definition.

A backend's class inherits `Pairwise` and names its implementation and sizes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import SOFT_MODES, conditioning, tolerance, x64

from softjax._modes import MODES
from softjax._orders import ORDERS
from softjax_pallas import pairwise

ORDER_NAMES = ("softsort", "neuralsort")
# What c0 and c2 change is in the rows; a rank differs from them by its payload or its direction.
COMBINATIONS = [
    (order, op, mode)
    for order in ORDER_NAMES
    for op in ("rows", "apply", "rank")
    for mode in SOFT_MODES
    if op == "rows" or mode in ("smooth", "c1") or (op, order) == ("apply", "softsort")
]


def keys(batch, n, seed=0):
    """Normal rows; the second has ties, the third is constant."""
    x = np.random.default_rng(seed).normal(size=(batch, n))
    if batch > 1:
        x[1] = np.round(2 * x[1]) / 2
    if batch > 2:
        x[2] = 0.3
    return x.astype(np.float32).astype(np.float64)


def softness(batch):
    """One per row, off the lattice of the tied row's logits, where c0's derivative jumps."""
    return np.linspace(0.137, 0.41, max(batch, 1))[:batch]


def allowed(order, x, ranks=1.0, dtype="float32"):
    """The suite's rule; ranks are as large as n."""
    n = x.shape[-1]
    widest = conditioning(x, n, softness(len(x)), order) if x.size else 1.0
    return tolerance(dtype, n, widest * max(1.0, np.abs(x).max(initial=0)) * ranks)


def call(forms, op, arguments, mode, ranks):
    """One form on (keys, softness, payload)."""
    x, tau, v = arguments
    form = getattr(forms, op)
    return (
        form(x, tau, MODES[mode]) if op == "rank" else form(x, ranks, *(() if op == "rows" else (v,)), tau, MODES[mode])
    )


def value_and_gradients(forms, op, mode, ranks, arguments, weights):
    """The result, and the gradients of its weighted sum with respect to keys, softness and payload."""

    def loss(*arguments):
        y = call(forms, op, arguments, mode, ranks)
        return jnp.sum(weights * y), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arguments)
    return y, gradients


def expected(order, op, mode, ranks, x, tau, v):
    """The oracle's value of every row."""
    if op == "rank":
        one = lambda x, tau, v: oracle.ranking(x, tau, mode, order, descending=False)
    elif op == "rows":
        one = lambda x, tau, v: oracle.rows(x, np.asarray(ranks), tau, mode, order)
    else:
        one = lambda x, tau, v: oracle.rows(x, np.asarray(ranks), tau, mode, order) @ v
    return np.stack([one(*row) for row in zip(x, tau, v, strict=True)])


def drawn(batch, n):
    """Keys, softness and a payload of two columns, in float64."""
    return keys(batch, n), softness(batch), np.random.default_rng(1).normal(size=(batch, n, 2)) + 2


def weights_of(want):
    """What a result is summed with for its gradients."""
    return np.random.default_rng(2).normal(size=want.shape)


@functools.cache
def definition(order, op, mode, shape, ranks):
    """The oracle's value, and float64 gradients of the definition: the same for every implementation."""
    arguments = drawn(*shape)
    want = expected(order, op, mode, ranks, *arguments)
    with x64():
        arrays = [jnp.asarray(a) for a in arguments]
        dense, weights = ORDERS[order].dense, jnp.asarray(weights_of(want))
        return want, [np.asarray(g) for g in value_and_gradients(dense, op, mode, ranks, arrays, weights)[1]]


def by_value(x, dx):
    """Gradients summed over tied elements, between which a sort may choose."""
    return np.concatenate([np.bincount(np.unique(a, return_inverse=True)[1], d) for a, d in zip(x, dx, strict=True)])


class Pairwise:
    """The cases. `implementation` is what runs; `sizes` are row lengths around a tile's."""

    implementation = ""
    sizes = ()
    few = 3

    def forms(self, order):
        """What is tested."""
        return pairwise.forms(self.implementation)[order]

    def check(self, order, op, mode, shape, few=False):
        """Value and gradients of one form."""
        n = shape[1]
        ranks = range(max(0, n - self.few), n) if few else range(n)
        x, tau, v = drawn(*shape)
        want, exact = definition(order, op, mode, shape, ranks)
        weights = weights_of(want)
        arrays = [jnp.asarray(a, jnp.float32) for a in (x, tau, v)]
        y, gradients = value_and_gradients(
            self.forms(order), op, mode, ranks, arrays, jnp.asarray(weights, jnp.float32)
        )
        atol = allowed(order, x, n if op == "rank" else np.abs(v).max())
        np.testing.assert_allclose(y, want, rtol=0, atol=atol)
        assert y.dtype == jnp.float32
        for have, right in zip(gradients, exact, strict=True):
            have = np.asarray(have, np.float64)
            if have.shape == x.shape:
                have, right = by_value(x, have), by_value(x, right)
            scale = np.abs(right).max() + np.abs(weights).max() / tau.min()
            np.testing.assert_allclose(have, right, rtol=0, atol=atol * scale)

    @pytest.mark.parametrize(("order", "op", "mode"), COMBINATIONS)
    def test_every_form(self, order, op, mode):
        """Every order, form and mode on normal, tied and constant rows, with a ragged end."""
        self.check(order, op, mode, (3, self.sizes[0]))

    @pytest.mark.parametrize("order", ORDER_NAMES)
    def test_sizes(self, order):
        """Row lengths on both sides of a tile's, and long rows."""
        for n in self.sizes[1:] if order == "softsort" else self.sizes[-2:]:
            self.check(order, "apply", "smooth", (1, n))

    @pytest.mark.parametrize("order", ORDER_NAMES)
    def test_vmap_is_the_batch(self, order):
        """vmap, nested, gives what the batch gives, gradients too."""
        x = jnp.asarray(keys(2, self.sizes[0]), jnp.float32)
        tau = jnp.asarray(softness(2), jnp.float32)
        ranks, mode = range(x.shape[1]), MODES["smooth"]

        def value(x, tau):
            return self.forms(order).apply(x, ranks, None, tau, mode)

        def gradient(x, tau):
            return jax.grad(lambda x: jnp.sum(jnp.sin(value(x, tau))))(x)

        mapped = jax.jit(jax.vmap(gradient))(x[:, None], tau[:, None])[:, 0]
        np.testing.assert_allclose(mapped, jax.jit(gradient)(x, tau), rtol=1e-6, atol=1e-6)

    def test_softness_does_not_recompile(self):
        """A new softness runs the same program."""
        run = jax.jit(lambda x, tau: self.forms("softsort").rank(x, tau, MODES["smooth"]))
        x = jnp.asarray(keys(1, self.sizes[0]), jnp.float32)
        first, second = (run(x, jnp.full((1,), tau, jnp.float32)) for tau in (0.1, 0.3))
        assert run._cache_size() == 1
        assert not np.allclose(first, second)

    def test_nan_stays_in_its_row(self):
        """A NaN, or a softness that is not positive, spoils its own row alone."""
        x = keys(3, self.sizes[0])
        x[0, 3] = np.nan
        tau = jnp.asarray([0.1, -0.1, 0.1], jnp.float32)
        ranks = range(x.shape[1])
        for order in ORDER_NAMES:
            form = self.forms(order)
            for mode in ("smooth", "c0"):
                y = jax.jit(lambda x, tau, f=form, m=mode: f.apply(x, ranks, None, tau, MODES[m]))(
                    jnp.asarray(x, jnp.float32), tau
                )
                assert np.isnan(y[:2]).all() and np.isfinite(y[2]).all()
