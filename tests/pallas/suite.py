"""The cases that every compiler's kernels pass: values against the oracle, gradients against the float64 definition.

A backend's class inherits `Pairwise` and names its implementation and sizes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import SOFT_MODES, UNIT, x64

from softjax._methods import METHODS
from softjax._modes import MODES
from softjax_pallas import named
from softjax_pallas.ops import pairwise
from softjax_pallas.ops.pairwise import KERNELS

METHOD_NAMES = tuple(KERNELS)
FORMS = [(method, op) for method, ops in KERNELS.items() for op in ops]
# What c0 and c2 change is in the rows; a rank differs from them by its payload or its direction.
COMBINATIONS = [(*form, mode) for form in FORMS for mode in SOFT_MODES if "rows" in form or mode in ("smooth", "c1")]


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


BLOCK = 128
"""Rows of the largest block whose logits are relative to its first row."""


def rounding(method, x):
    """What results inherit from a kernel's logits: a unit of the last place of the largest sum that they come from.

    SoftSort's is a difference of keys; NeuralSort's is summed over a block's rows. Relative to a weighted mean of P.
    """
    ascending = np.sort(x, axis=-1)
    n = min(BLOCK, x.shape[-1])
    near = np.max(ascending[:, n - 1 :] - ascending[:, : x.shape[-1] - n + 1])
    size = np.ptp(x, axis=-1).max() if method == "softsort" else n * near
    return np.finfo(np.float32).eps * (1 + size / softness(len(x)).min())


def size(method, op, mode, x, tau, v):
    """What an error of P is multiplied by in a result: entries are at most 1, ranks as far as P reaches."""
    if op != "rank":
        return 1.0 if op == "rows" else np.abs(v).max()
    n = x.shape[1]
    apart = np.abs(np.arange(n)[:, None] - np.arange(n)[None])

    def reach(x, tau):
        columns = oracle.rows(np.sort(x), np.arange(n), tau, mode, method)
        return np.max(np.sum(columns * apart, axis=0) / np.sum(columns, axis=0))

    return 1 + max(map(reach, x, tau))


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


def expected(method, op, mode, ranks, x, tau, v):
    """The oracle's value of every row."""
    if op == "rank":
        one = lambda x, tau, v: oracle.ranking(x, tau, mode, method, descending=False)
    elif op == "rows":
        one = lambda x, tau, v: oracle.rows(x, np.asarray(ranks), tau, mode, method)
    else:
        one = lambda x, tau, v: oracle.rows(x, np.asarray(ranks), tau, mode, method) @ v
    return np.stack([one(*row) for row in zip(x, tau, v, strict=True)])


def drawn(batch, n):
    """Keys, softness and a payload of two columns, in float64."""
    return keys(batch, n), softness(batch), np.random.default_rng(1).normal(size=(batch, n, 2)) + 2


def weights_of(want):
    """What a result is summed with for its gradients."""
    return np.random.default_rng(2).normal(size=want.shape)


@functools.cache
def definition(method, op, mode, shape, ranks):
    """The oracle's value, float64 gradients of the definition, and `size`: the same for every implementation."""
    arguments = drawn(*shape)
    want = expected(method, op, mode, ranks, *arguments)
    with x64():
        arrays = [jnp.asarray(a) for a in arguments]
        dense, weights = METHODS[method].definition, jnp.asarray(weights_of(want))
        gradients = [np.asarray(g) for g in value_and_gradients(dense, op, mode, ranks, arrays, weights)[1]]
    return want, gradients, size(method, op, mode, *arguments)


def by_value(x, dx):
    """Gradients summed over tied elements, between which a sort may choose."""
    return np.concatenate([np.bincount(np.unique(a, return_inverse=True)[1], d) for a, d in zip(x, dx, strict=True)])


class Pairwise:
    """The cases. `implementation` is what runs; `sizes` are row lengths around a tile's.

    Interpreted, ci/check.sh runs every form in its modes, and ci/nightly.sh all of them.
    """

    implementation = ""
    sizes = ()
    few = 3

    def forms(self, method):
        """What is tested."""
        return named(METHODS[method], self.implementation)

    def check(self, method, op, mode, shape, few=False):
        """Value and gradients of one form.

        Tolerances are such that a result of zeros, or a gradient of the keys, fails. A gradient comes of several sums.
        """
        n = shape[1]
        ranks = range(max(0, n - self.few), n) if few else range(n)
        x, tau, v = drawn(*shape)
        want, exact, largest = definition(method, op, mode, shape, ranks)
        weights = weights_of(want)
        arrays = [jnp.asarray(a, jnp.float32) for a in (x, tau, v)]
        y, gradients = value_and_gradients(
            self.forms(method), op, mode, ranks, arrays, jnp.asarray(weights, jnp.float32)
        )
        unit = rounding(method, x)
        atol = unit * largest + np.finfo(np.float32).eps * np.abs(want).max()
        assert atol < np.abs(want).max() / 4 or n < 3
        np.testing.assert_allclose(y, want, rtol=0, atol=atol)
        assert y.dtype == jnp.float32
        for name, have, right in zip(("keys", "softness", "payload"), gradients, exact, strict=True):
            have = np.asarray(have, np.float64)
            if have.shape == x.shape:
                have, right = by_value(x, have), by_value(x, right)
            atol = 8 * unit * (np.abs(right).max() + np.abs(weights).max() / tau.min())
            assert name != "keys" or atol < np.abs(right).max() / 2 or n < 3
            np.testing.assert_allclose(have, right, rtol=0, atol=atol, err_msg=name)

    @pytest.mark.parametrize(("method", "op", "mode"), COMBINATIONS)
    def test_every_form(self, method, op, mode):
        """Every method, form and mode on normal, tied and constant rows, with a ragged end."""
        self.check(method, op, mode, (3, self.sizes[0]))

    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_sizes(self, method):
        """Row lengths on both sides of a tile's, and long rows."""
        for n in self.sizes[1:]:
            self.check(method, "apply" if "apply" in KERNELS[method] else "rows", "smooth", (1, n))

    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_vmap_is_the_batch(self, method):
        """vmap, nested, gives what the batch gives, gradients too."""
        x = jnp.asarray(keys(2, self.sizes[0]), jnp.float32)
        tau = jnp.asarray(softness(2), jnp.float32)
        ranks, mode = range(x.shape[1]), MODES["smooth"]

        def value(x, tau):
            return self.forms(method).rows(x, ranks, tau, mode)

        def gradient(x, tau):
            return jax.grad(lambda x: jnp.sum(jnp.sin(value(x, tau))))(x)

        mapped = jax.jit(jax.vmap(gradient))(x[:, None], tau[:, None])[:, 0]
        np.testing.assert_allclose(mapped, jax.jit(gradient)(x, tau), rtol=1e-6, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHOD_NAMES)
    def test_half_precision(self, method):
        """Half-precision keys are summed in float32: what comes is that of the same keys in float32, rounded once."""
        n = self.sizes[0]
        tau = jnp.asarray(softness(2), jnp.float32)
        for op in KERNELS[method]:

            def both(x, op=op):
                y, pull = jax.vjp(lambda x: call(self.forms(method), op, (x, tau, None), "smooth", range(n)), x)
                cotangent = jnp.round(64 * jnp.sin(jnp.arange(y.size, dtype=jnp.float32))) / 64  # exact in every dtype
                return y, pull(cotangent.reshape(y.shape).astype(y.dtype))[0]

            run, shape = jax.jit(both), (2, n) if op == "rank" else (2, n, n, 1)
            for dtype in ("bfloat16", "float16"):
                if pairwise.supports(op, method, dtype, shape, self.implementation) is not None:
                    continue  # float16 on a TPU
                x = jnp.asarray(keys(2, n), dtype)
                for narrow, wide in zip(run(x), run(x.astype(jnp.float32)), strict=True):
                    assert narrow.dtype == dtype
                    scale = float(jnp.max(jnp.abs(wide)))
                    narrow = np.asarray(narrow.astype(jnp.float32))
                    np.testing.assert_allclose(narrow, wide, rtol=0, atol=2 * UNIT[dtype] * scale, err_msg=dtype)

    @pytest.mark.slow
    def test_softness_does_not_recompile(self):
        """A new softness runs the same program."""
        run = jax.jit(lambda x, tau: self.forms("neuralsort").rank(x, tau, MODES["smooth"]))
        x = jnp.asarray(keys(1, self.sizes[0]), jnp.float32)
        first, second = (run(x, jnp.full((1,), tau, jnp.float32)) for tau in (0.1, 0.3))
        assert run._cache_size() == 1
        assert not np.allclose(first, second)

    @pytest.mark.slow
    def test_nan_stays_in_its_row(self):
        """A NaN, or a softness that is not positive, spoils its own row alone."""
        x = keys(3, self.sizes[0])
        x[0, 3] = np.nan
        tau = jnp.asarray([0.1, -0.1, 0.1], jnp.float32)
        ranks = range(x.shape[1])
        for method in METHOD_NAMES:
            form = self.forms(method)
            for mode in ("smooth", "c0"):
                y = jax.jit(lambda x, tau, f=form, m=mode: f.rows(x, ranks, tau, MODES[m]))(
                    jnp.asarray(x, jnp.float32), tau
                )
                assert np.isnan(y[:2]).all() and np.isfinite(y[2]).all()
