"""Sums over smaller and over larger keys: a CPU's loop and other platforms' scans against their matrices."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import tolerance, x64

from softjax._methods import linear_recurrence as _recurrence


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("form", [_recurrence._in_turn, _recurrence._scanned])
def test_sums_are_those_of_the_definition(form, moved):
    """With ties, at a softness of 0, a tiny and a large one; float64."""
    n, rng = 60, np.random.default_rng(0)
    s = np.sort(np.round(rng.normal(size=(4, n)), 1), axis=-1)
    tau = np.array([0.0, 1e-6, 0.1, 3.0])
    p, q = rng.normal(size=(2, 2, 4, 2, n))
    q = q if moved else np.zeros_like(q)
    difference = s[:, :, None] - s[:, None, :]
    weight = np.exp(-np.abs(difference) / np.where(tau == 0, 1e-9, tau)[:, None, None])
    triangle = np.tril(np.ones((n, n)))
    with x64():
        links = _recurrence._links(jnp.asarray(s), jnp.asarray(tau), 1000.0)
        kinds = [tuple(map(jnp.asarray, a)) for a in ((p, q) if moved else (p,))]
        own, strict = form(links, *kinds)
    sides = (weight * triangle, weight * (difference > 0)), (weight * triangle.T, weight * (difference < 0))
    for side, (up_to, beyond) in enumerate(sides):
        apply = lambda matrix, u: np.einsum("bij,bdj->bdi", matrix, u)
        for have, want in (
            (own[side], apply(up_to, p[side]) + apply(beyond, q[side])),
            (strict[side], apply(beyond, p[side] + q[side])),
        ):
            np.testing.assert_allclose(have, want, rtol=0, atol=tolerance("float64", n) * np.max(np.abs(want)) + 1e-12)
