"""One primitive for linear operators that know their transposes, with every JAX transformation.

`jax.custom_derivatives.linear_call` has no batching rule and a `custom_vjp` no forward mode; this has both, and keeps
rows that are sharded over devices where they are.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from ._sharding import Spread, by_rows, row_spec, unchecked, vary_alike

try:  # Which devices a program is lowered for is told to these primitives alone.
    from jax._src.dispatch import prim_requires_devices_during_lowering as _told_devices
except ImportError:
    _told_devices = set()

# `jax.extend.core`, which names this class, would import Pallas.
_linear_p = type(lax.sort_p)("soft_order")
_linear_p.multiple_results = True
_told_devices.add(_linear_p)


class Target(NamedTuple):
    """What a program is lowered for: "cpu", "cuda", "rocm" or "tpu", and a device of that kind where one is known.

    `local` says that every device runs it on rows of its own; XLA cannot split a kernel.
    """

    platform: str
    device: Any = None
    local: bool = True


@dataclasses.dataclass(frozen=True)
class Operator(abc.ABC):
    """A linear operator out = A(*fixed)(*moving) on arrays that share their leading dimensions.

    `run` computes it on (batch, ...) arrays; `transpose(fixed, cotangents)` applies A^T;
    `tangent(fixed, moving, dfixed, out)` differentiates it with respect to `fixed`; for results that are no floats its
    answer is not used.
    A subclass is a frozen dataclass: its fields are the operator's static parameters. `fixed` counts the first kind of
    arguments. `run_on` differs from `run` where a platform has its own way.
    """

    fixed: ClassVar[int]
    platform: ClassVar[str | None] = None
    """The platform that the operator is for, where others never run it."""
    end_to_end: ClassVar[bool] = False
    """Does `run` lay rows end to end? Then NaN and infinities, which times 0 are NaN, are kept in their rows."""
    sound: ClassVar[int] = 0
    """So many leading arguments hold no NaN where rows lie end to end."""
    sound_results: ClassVar[int] = 0
    """So many leading results follow from them alone."""
    along_keys: ClassVar[tuple[tuple[bool, ...], tuple[bool, ...]] | None] = None
    """Of arguments and results: is the last dimension the keys', which devices may share? None: keys are whole."""

    def __call__(self, *args: Array) -> Any:
        out = self.bind(*args)
        return out[0] if len(out) == 1 else out

    def bind(self, *args: Array) -> tuple[Array, ...]:
        """All results, also where there is one."""
        return tuple(_linear_p.bind(*vary_alike(args), op=self))

    @abc.abstractmethod
    def run(self, *args: Array) -> tuple[Array, ...]:
        """A(*fixed)(*moving) for arrays (batch, ...)."""

    def transpose(self, fixed: tuple, cotangents: tuple) -> Any:
        """A(*fixed)^T (*cotangents), for operators with moving arguments."""
        raise TypeError(f"{type(self).__name__} has no moving argument to transpose.")

    def tangent(self, fixed: tuple, moving: tuple, dfixed: tuple, out: tuple) -> tuple:
        """The tangent of A(*fixed)(*moving) = out along dfixed, `out` as `differentiated` gives it."""
        raise NotImplementedError

    def run_on(self, target: Target | None, *args: Array) -> tuple[Array, ...]:
        """`run` for a target; None where a program is for several."""
        return self.run(*args)

    def shapes(self, *args: jax.ShapeDtypeStruct) -> Sequence[Any]:
        """Shapes and dtypes of the results."""
        return jax.eval_shape(self.evaluate, *args)

    def effects(self, *args: jax.ShapeDtypeStruct) -> set[Any]:
        """Effects of running it: an interpreter may call back."""
        return set()

    def differentiated(self, *args: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The results, and what `tangent` is to know of how they came about: here they themselves."""
        out = self.bind(*args)
        return out, out

    def jvp(self, primals: Sequence[Array], tangents: Sequence[Any]) -> tuple[Sequence[Array], Sequence[Any]]:
        """The results and their tangents, of which those of `moving` take one application of the operator."""
        out, known = self.differentiated(*primals)
        fixed, moving = tuple(primals[: self.fixed]), tuple(primals[self.fixed :])
        dfixed, dmoving = tangents[: self.fixed], tangents[self.fixed :]
        terms = []
        if not all(isinstance(t, ad.Zero) for t in dfixed):
            terms.append(self.tangent(fixed, moving, tuple(map(ad.instantiate_zeros, dfixed)), known))
        if not all(isinstance(t, ad.Zero) for t in dmoving):
            terms.append(self.bind(*fixed, *map(ad.instantiate_zeros, dmoving)))
        none = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in out]
        if not terms:
            return out, none
        sums = [sum(t[1:], t[0]) for t in zip(*terms, strict=True)]
        return out, [s if jnp.issubdtype(x.dtype, jnp.inexact) else z for x, s, z in zip(out, sums, none, strict=True)]

    def together(self, axes: tuple[str, ...], own: Sequence[Array], found: Sequence[Array]) -> Sequence[Array]:
        """The results of what each device along the mesh axes found for the arguments of its own keys: here sums."""
        assert self.along_keys is not None
        return [a if keys else lax.psum(a, axes) for a, keys in zip(found, self.along_keys[1], strict=True)]

    def evaluate(self, *args: Array, target: Target | None = None) -> tuple[Array, ...]:
        """The results for arrays with any number of leading dimensions."""
        lead = args[0].shape[:-1]
        flat = [a.reshape(math.prod(lead), *a.shape[len(lead) :]) for a in args]
        run = partial(self.run_on, target)
        if self.end_to_end and not isinstance(flat[0].shape[0], int):  # a symbolic batch: nobody knows where rows end
            one = lambda row: tuple(a[0] for a in self.run_on(target, *(a[None] for a in row)))
            # One after another, loops and branches are each row's own.
            in_turn = target is not None and target.platform == "cpu"
            run = lambda *rows: lax.map(one, rows) if in_turn else jax.vmap(lambda *row: one(row))(*rows)
        out = self._apart(run, flat) if self.end_to_end else run(*flat)
        return tuple(a.reshape(*lead, *a.shape[1:]) for a in out)

    def _apart(self, run: Callable[..., tuple[Array, ...]], arrays: Sequence[Array]) -> Sequence[Array]:
        """run(*arrays), NaN in rows of the batch that hold one, or an infinity that moves, and without it in others.

        It is linear in what moves, of which large numbers are brought nearer: none overflows on the way.
        """
        given, held, moving = arrays[: self.sound], arrays[self.sound : self.fixed], arrays[self.fixed :]
        column = lambda row, a: row.reshape(-1, *(1,) * (a.ndim - 1))
        alike: dict[int, Array] = {}  # by the numbers in a row: one reduction serves arrays of one size
        for a in held:
            width = math.prod(a.shape[1:])
            holds = jnp.isnan(a).reshape(a.shape[0], width)
            alike[width] = alike[width] | holds if width in alike else holds
        spoiled = [jnp.any(holds, axis=1) for holds in alike.values()]
        given = [*given, *(jnp.where(jnp.isnan(a), jnp.ones_like(a), a) for a in held)]  # some of them divide
        unit = jnp.ones_like(arrays[0][:, 0])
        if sized := [a for a in moving if 0 not in a.shape[1:]]:
            unit = unit_of(reduce(jnp.maximum, (jnp.max(jnp.abs(a), axis=tuple(range(1, a.ndim))) for a in sized)))
            spoiled.append(~jnp.isfinite(unit))
        if not spoiled:
            return run(*given, *moving)
        bad = reduce(jnp.logical_or, spoiled)
        given += [jnp.where(column(bad, a), jnp.zeros_like(a), a / column(unit, a)) for a in moving]
        back = jnp.where(bad, jnp.full_like(unit, jnp.nan), unit)
        out = run(*given)
        return [*out[: self.sound_results], *(a * column(back, a) for a in out[self.sound_results :])]


@dataclasses.dataclass(frozen=True)
class Applied(Operator):
    """(keys, tau | payload) -> form(keys, ranks, payload, tau, mode), kept whole so that it can be transposed.

    Its derivative, its batches and its program are the form's own; `jax.linear_transpose` alone meets the operator,
    which says that the form, of P or of P.T, is linear in the payload (*batch, size, d).
    """

    form: Callable[..., Array]
    ranks: Any
    mode: Any
    size: int
    fixed = 2

    def run(self, *args):
        keys, tau, payload = args
        return (self.form(keys, self.ranks, payload, tau, self.mode),)

    def mapped(self, batch_ndim: int) -> Callable[..., tuple[Array, ...]]:
        """`run` for so many batch axes."""
        run: Callable[..., tuple[Array, ...]] = self.run
        for _ in range(batch_ndim - 1):
            run = jax.vmap(run)
        return run

    def jvp(self, primals: Sequence[Array], tangents: Sequence[Any]) -> tuple:
        """Along the tangents that are not zero."""
        moves = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

        def run(*some):
            filled = dict(zip(moves, some, strict=True))
            return self.mapped(primals[0].ndim - 1)(*(filled.get(i, p) for i, p in enumerate(primals)))

        return jax.jvp(run, [primals[i] for i in moves], [tangents[i] for i in moves])

    def transpose(self, fixed, cotangents):
        keys, tau = fixed
        start = jnp.zeros((*keys.shape[:-1], self.size, cotangents[0].shape[-1]), cotangents[0].dtype)
        start, cotangent, _ = vary_alike((start, cotangents[0], keys))
        return jax.vjp(partial(self.mapped(tau.ndim), keys, tau), start)[1]((cotangent,))


def unit_of(largest: Array) -> Array:
    """A power of two: numbers of up to these sizes, divided by it, leave room for sums and products."""
    info = jnp.finfo(largest.dtype)
    return lax.reduce_precision(jnp.maximum(largest * 2.0 ** -(info.maxexp // 4), 1), info.nexp, 0)


def _jvp(primals, tangents, *, op):
    return op.jvp(primals, tangents)


def _transpose(cotangents, *args, op):
    fixed, moving = args[: op.fixed], args[op.fixed :]
    out = op.transpose(fixed, tuple(map(ad.instantiate_zeros, cotangents)))
    return [None] * len(fixed) + [c if ad.is_undefined_primal(m) else None for c, m in zip(out, moving, strict=True)]


def _batch(args, axes, *, op):
    if isinstance(op, Applied) and axes[0] is axes[1] is None:  # many payloads of one permutation: further columns
        columns = jnp.moveaxis(args[2], axes[2], -1)
        (out,) = _linear_p.bind(*args[:2], columns.reshape(*columns.shape[:-2], -1), op=op)
        return [out.reshape(*out.shape[:-1], *columns.shape[-2:])], [out.ndim]
    size = next(a.shape[x] for a, x in zip(args, axes, strict=True) if x is not None)
    args = [
        jnp.broadcast_to(a, (size, *a.shape)) if x is None else jnp.moveaxis(a, x, 0)
        for a, x in zip(args, axes, strict=True)
    ]
    out = _linear_p.bind(*args, op=op)
    return out, [0] * len(out)


def _abstract(*avals, op):
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    with unchecked():
        shapes, effects = op.shapes(*structs), op.effects(*structs)
    return [_result(avals[0], o) for o in shapes], effects


def _result(first: ShapedArray, out: Any) -> ShapedArray:
    """A result's type: it is sharded, and varies over manual axes, as the rows of the first argument."""
    lead = first.ndim - 1
    spec = PartitionSpec(*row_spec(first.sharding, lead), *(None,) * (len(out.shape) - lead))
    sharding = NamedSharding(first.sharding.mesh, spec)
    return first.update(shape=out.shape, dtype=out.dtype, weak_type=False, sharding=sharding)


def _run_now(*args, op):
    with jax.disable_jit(False):
        return _compiled(*args, op=op)


@partial(jax.jit, static_argnames="op")
def _compiled(*args, op):
    return op.bind(*args)


def _lower(ctx, *args, op):
    # Sharding and manual axes are the primitive's affair: inside, every loop may start from a constant.
    own = ctx.replace(avals_in=[ShapedArray(a.shape, a.dtype) for a in ctx.avals_in])
    out = _lower_rows(own, *args, op=op)
    if own.tokens_out is not None:  # of an interpreter's effects
        ctx.set_tokens_out(own.tokens_out)
    return out


def _lower_rows(ctx, *args, op):
    """The operator's own program; over several devices one that each of them runs on its rows."""
    if isinstance(op, Applied):
        return mlir.lower_fun(_meshless(op.mapped(ctx.avals_in[0].ndim - 1)), multiple_results=True)(ctx, *args)
    context = ctx.module_context
    platforms = tuple(ctx.platforms or context.platforms)
    if op.platform in platforms:  # a program for several: this is the branch of one
        platforms = (op.platform,)
        ctx = ctx.replace(platforms=platforms)
    devices = _devices(context.axis_context)
    manual = set(getattr(context.axis_context, "manual_axes", ()))
    shared = len(devices) > 1 and not (manual and manual >= set(context.axis_context.mesh.axis_names))
    # An exported program outlives this process, and with it the callback that splits rows; TPU compilers know no such
    # callbacks (JAX issue 38196).
    split = shared and not manual and "tpu" not in platforms and not context.lowering_parameters.for_export
    target = Target(platforms[0], _described(platforms[0], devices), split or not shared)
    run = _meshless(partial(op.evaluate, target=target if len(platforms) == 1 else None))
    if split:
        spread = None if op.along_keys is None else Spread(*op.along_keys, together=_meshless(op.together))
        run = by_rows(run, ctx.avals_in[0].ndim - 1, spread)
    return mlir.lower_fun(run, multiple_results=True)(ctx, *args)


def _meshless(run: Callable[..., Sequence[Array]]) -> Callable[..., list[Array]]:
    """`run`, traced where no mesh is set."""

    def call(*arrays):
        device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)  # it stays described
        mesh = jax.sharding.AbstractMesh((), (), **({} if device is None else {"abstract_device": device}))
        with jax.sharding.use_abstract_mesh(mesh), unchecked():
            return list(run(*arrays))

    return call


def _devices(axis_context: Any) -> tuple:
    """The devices that a program is lowered for, as far as known."""
    mesh = getattr(axis_context, "mesh", None)
    if isinstance(mesh, jax.sharding.Mesh):  # an abstract mesh has none
        return tuple(mesh.devices.flat)
    return tuple(getattr(axis_context, "device_assignment", None) or ())


def _described(platform: str, devices: tuple) -> Any:
    """A device of that platform: the program's own, or the one that an abstract mesh describes."""
    described = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    for device in (*devices[:1], described):
        if device is not None and PLATFORMS.get(device.platform, device.platform) == platform:
            return device
    return None


PLATFORMS = {"gpu": "cuda"}
"""What devices call a platform, where a lowering calls it otherwise."""

_linear_p.def_impl(_run_now)
_linear_p.def_effectful_abstract_eval(_abstract)
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batch
mlir.register_lowering(_linear_p, _lower)
