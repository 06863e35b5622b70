"""Sorting with its permutation, the hard operation under every fast form."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import zero_from_primal

from .._primitive import Operator
from .._types import Float, Int
from .base import Keys, Ranks


@jax.custom_jvp
def sort_with_permutation(x: Keys) -> tuple[Keys, Int[Array, "batch n"]]:
    """Ascending keys, and the index each came from. One sort carries both; its derivative is one gather."""
    return lax.platform_dependent(x, cpu=_sort_by_index, default=_sort_pairs)


def _sort_pairs(x: Keys) -> tuple[Keys, Int[Array, "batch n"]]:
    index = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    s, permutation = lax.sort((x, index), dimension=1, num_keys=1)
    return s, permutation


def _sort_by_index(x: Keys) -> tuple[Keys, Int[Array, "batch n"]]:
    permutation = _sort_pairs(_integers(x))[1]
    return gather(x, permutation), permutation


def _integers(x: Float[Array, "*batch n"]) -> Int[Array, "*batch n"]:
    """Integers in the order of the floats, -0 and 0 alike and NaN last, as `lax.sort` has them.

    XLA's CPU sort takes 2.3 times as long for floats and an index, 5 times for floats alone [measured]: it calls a
    comparison of many steps.
    """
    kind = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    bits, largest = lax.bitcast_convert_type(x, kind), jnp.iinfo(kind).max
    ascending = jnp.where(bits < 0, jnp.bitwise_xor(bits, largest) + 1, bits)  # -0 becomes 0
    return jnp.where(jnp.isnan(x), largest, ascending)


def _floats(integers: Int[Array, "*batch n"], dtype: jnp.dtype) -> Float[Array, "*batch n"]:
    """The inverse of `_integers`, but for the sign of 0."""
    bits = jnp.where(integers < 0, jnp.bitwise_xor(integers - 1, jnp.iinfo(integers.dtype).max), integers)
    return lax.bitcast_convert_type(bits, dtype)


def sorted_keys(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Ascending keys of every row, without a derivative."""
    by_integers = lambda x: _floats(lax.sort(_integers(x), dimension=x.ndim - 1), x.dtype)
    return lax.platform_dependent(lax.stop_gradient(x), cpu=by_integers, default=partial(jnp.sort, axis=-1))


@sort_with_permutation.defjvp
def _sort_jvp(primals, tangents):
    s, permutation = sort_with_permutation(*primals)
    no_tangent: Any = zero_from_primal(permutation)
    return (s, permutation), (gather(tangents[0], permutation), no_tangent)


_BLOCK = 512
"""On CPUs, rows of so many keys for each wanted one are looked through in blocks."""


@dataclasses.dataclass(frozen=True)
class _TopK(Operator):
    """x -> `lax.top_k`, which XLA does not partition over devices by itself."""

    k: int
    fixed = 1
    along_keys = (True,), (False, False)

    def run(self, *args):
        return self.run_on(None, *args)

    def run_on(self, target, *args):
        (x,) = args
        k, on_cpu = min(self.k, x.shape[-1]), target is not None and target.platform == "cpu"
        found = (_top_k_of_blocks if on_cpu and x.shape[-1] >= _BLOCK * k else lax.top_k)(x, k)
        # Barriers, or XLA finds slices of a sort in what uses the results, and sorts all. One for each: of both
        # together, in a program for several devices, XLA in JAX 0.10 ends the process.
        return tuple(map(lax.optimization_barrier, found))

    def together(self, axes, own, found):
        """The largest of the largest of each device: a sum over devices lists them, which moves k numbers of each."""
        device, few = lax.axis_index(axes), found[0].shape[1]
        listed = lambda a: jnp.zeros((a.shape[0], lax.axis_size(axes), few), a.dtype).at[:, device].set(a)
        values, index = lax.psum((listed(found[0]), listed(found[1] + device * own[0].shape[1])), axes)
        values, places = lax.top_k(values.reshape(values.shape[0], -1), self.k)
        return values, gather(index.reshape(places.shape[0], -1), places)

    def tangent(self, fixed, moving, dfixed, out):
        return gather(dfixed[0], out[1]), out[1]


def _top_k_of_blocks(x: Keys, k: int) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """`lax.top_k` in blocks of neighbours whose maxima are the k largest: they hold the k largest keys.

    Of equal keys the first ones count, and of equal maxima; zeros are of one sign. A row's NaN may be missed. XLA's CPU
    top-k compares key by key, which takes ten times as long as the maxima [measured].
    """
    n = x.shape[-1]
    size = round((n / k) ** 0.5)
    whole = n - n % size
    blocks = x[:, :whole].reshape(x.shape[0], whole // size, size)
    maxima = jnp.max(jnp.where(jnp.isnan(blocks), jnp.inf, blocks), axis=2)  # XLA's vectorised maximum drops a NaN
    chosen = lax.top_k(maxima, k)[1]
    ascending = -lax.top_k(-chosen, k)[0]
    within = ascending[:, :, None] * size + lax.iota(chosen.dtype, size)[None, None]
    rest = jnp.broadcast_to(jnp.arange(whole, n, dtype=chosen.dtype), (x.shape[0], n - whole))
    index = jnp.concatenate([within.reshape(x.shape[0], k * size), rest], axis=1)
    values, places = lax.top_k(gather(x, index), k)
    return values, gather(index, places)


def top_k(x: Keys, k: int) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """The k largest keys of every row, descending, and the index each came from."""
    return _TopK(k)(x)


def gather(x: Array, index: Int[Array, "*batch r"]) -> Array:
    """x[b, index[b, i]] of x (*batch, n, ...); the indices are known to be in range."""
    of_rows = _gather_row  # row by row, so that rows on several devices stay there
    for _ in range(index.ndim - 1):
        of_rows = jax.vmap(of_rows)
    return of_rows(x, index)


def _gather_row(x: Float[Array, "n *d"], index: Int[Array, " r"]) -> Float[Array, "r *d"]:
    return x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def unsort(y: Float[Array, "batch n *d"], permutation: Int[Array, "batch n"]) -> Float[Array, "batch n *d"]:
    """The inverse of `gather` by a permutation: values in sorted order back to their elements."""
    return jax.vmap(_unsort_row)(y, permutation)


def _unsort_row(y: Float[Array, "n *d"], permutation: Int[Array, " n"]) -> Float[Array, "n *d"]:
    return (
        jnp.zeros_like(y)
        .at[permutation]
        .set(y, unique_indices=True, mode="promise_in_bounds", wrap_negative_indices=False)
    )


def pick(y: Array, ranks: Ranks, axis: int = 1) -> Array:
    """The ranks of y along `axis`."""
    if isinstance(ranks, jax.Array):
        return jnp.take(y, ranks.astype(int), axis=axis)
    return lax.slice_in_dim(y, ranks.start, ranks.stop, axis=axis)


def unpick(y: Float[Array, "batch r d"], ranks: Ranks, n: int) -> Float[Array, "batch n d"]:
    """The transpose of `pick` for neighbours: values of the ranks where they belong, zero elsewhere."""
    assert not isinstance(ranks, jax.Array)
    return jnp.pad(y, ((0, 0), (ranks.start, n - ranks.stop), (0, 0)))
