"""Forms by kernels: one primitive each for a value, its tangent and its cotangent, chosen where a program is lowered.

Reverse mode is the kernel's own. Forward mode and second derivatives are plain JAX where a choice was left, and an
error that says so where a kernel was asked for by name.
"""

import abc
import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._primitive import Operator, Target

Call = Callable[..., Array]
"""A form: a function of keys, and of ranks, a payload, softness and a mode as it takes them."""


class _Place(enum.Enum):
    """Where an array goes among a form's arguments."""

    ARRAY = enum.auto()


class Kernel(Protocol):
    """A form by a kernel. Arrays lead with the batch, and so does everything that is saved."""

    def value(self, *arguments: Any) -> tuple[Array, tuple[Array, ...]]:
        """The form's result, and what its cotangent wants to know besides the arguments."""
        ...

    def pull(self, saved: tuple[Array, ...], cotangent: Array, *arguments: Any) -> tuple[Array, ...]:
        """Cotangents of the arguments that are arrays of floats."""
        ...


class Source(abc.ABC):
    """Where kernels for a form come from. Frozen and comparable: it is part of a program's cache key."""

    plain: Call | None
    """The form in plain JAX, None where a kernel was asked for by name."""
    platform: str | None
    """The platform that kernels are for, None for any."""

    @abc.abstractmethod
    def at(self, target: Target | None, *arguments: Any) -> Kernel | None:
        """The kernel for a target, None for plain JAX."""

    @abc.abstractmethod
    def result(self, *arguments: Any) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the form's result."""

    @abc.abstractmethod
    def saved(self, *arguments: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and dtypes of what kernels save."""

    def effects(self, *arguments: Any) -> set[Any]:
        """Effects of running a kernel."""
        return set()

    @abc.abstractmethod
    def no_derivative(self, what: str) -> Exception:
        """The error where `what` needs the plain form and there is none."""


@dataclasses.dataclass(frozen=True)
class _Form(Operator):
    """What the three operators share: the source, and the form's arguments with places for `count` arrays.

    Of these, `floats` are differentiated.
    """

    source: Source
    template: tuple
    floats: tuple[int, ...]
    count: int

    @property
    def platform(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.source.platform

    def arguments(self, arrays: tuple) -> list[Any]:
        given: Iterator[Any] = iter(arrays)
        return [next(given) if a is _Place.ARRAY else a for a in self.template]

    def plain(self, arrays: tuple) -> Callable[..., Array]:
        """The plain form as a function of the arrays that are differentiated."""
        assert self.source.plain is not None
        plain = self.source.plain

        def function(*floats):
            every = list(arrays)
            for i, a in zip(self.floats, floats, strict=True):
                every[i] = a
            return plain(*self.arguments(tuple(every)))

        return function

    def of(self, arrays: tuple) -> tuple:
        """The arrays that are differentiated."""
        return tuple(arrays[i] for i in self.floats)

    def lean(self, arrays: tuple) -> tuple[tuple[int, ...], list[Any]]:
        """Leading dimensions, and shapes of the arguments with two rows in their place."""
        lead = arrays[0].shape[:-1]
        rows = [jax.ShapeDtypeStruct((2, *a.shape[len(lead) :]), a.dtype) for a in arrays]
        return lead, self.arguments(tuple(rows))

    def effects(self, *args):
        return self.source.effects(*self.lean(args[: self.count])[1])

    def operator(self, kind: type["_Form"], **changes: Any) -> Any:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(_Form)}
        return kind(**fields, **changes)


def _with_lead(lead: tuple[int, ...], struct: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*lead, *struct.shape[1:]), struct.dtype)


@dataclasses.dataclass(frozen=True)
class _Value(_Form):
    """The form's result, and behind it what a kernel saves if `saves`."""

    saves: bool = False

    @property
    def fixed(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.count

    def run(self, *args):
        return self.run_on(None, *args)

    def run_on(self, target, *args):
        arguments = self.arguments(args)
        kernel = self.source.at(target, *arguments)
        if kernel is not None:
            out, saved = kernel.value(*arguments)
        else:
            out, batch = self.plain(args)(*self.of(args)), args[0].shape[:1]
            saved = tuple(jnp.zeros(s.shape, s.dtype) for s in self._saved(batch, self.lean(args)[1]))
        return (out, *saved) if self.saves else (out,)

    def _saved(self, lead, arguments):
        return tuple(_with_lead(lead, s) for s in self.source.saved(*arguments))

    def shapes(self, *args):
        lead, arguments = self.lean(args)
        out = _with_lead(lead, self.source.result(*arguments))
        return (out, *self._saved(lead, arguments)) if self.saves else (out,)

    def differentiated(self, *args):
        out, *saved = dataclasses.replace(self, saves=True).bind(*args)
        return (out, *saved) if self.saves else (out,), tuple(saved)

    def tangent(self, fixed, moving, dfixed, out):
        tangents = self.operator(_Tangent, saved=len(out)).bind(*fixed, *out, *self.of(dfixed))
        return (*tangents, *(jnp.zeros_like(s) for s in out if self.saves))


@dataclasses.dataclass(frozen=True)
class _Tangent(_Form):
    """(arrays, saved | tangents of the floats) -> the result's tangent. It exists to be transposed."""

    saved: int = 0

    @property
    def fixed(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.count + self.saved

    def run(self, *args):
        if self.source.plain is None:
            raise self.source.no_derivative("forward mode")
        arrays, moving = args[: self.count], args[self.fixed :]
        return (jax.jvp(self.plain(arrays), self.of(arrays), tuple(moving))[1],)

    def shapes(self, *args):
        lead, arguments = self.lean(args[: self.count])
        return (_with_lead(lead, self.source.result(*arguments)),)

    def effects(self, *args):
        return set()

    def transpose(self, fixed, cotangents):
        return self.operator(_Cotangent, saved=self.saved).bind(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        if self.source.plain is None:
            raise self.source.no_derivative("second derivative")
        arrays = fixed[: self.count]
        first = lambda *floats: jax.jvp(self.plain(arrays), floats, tuple(moving))[1]
        return (jax.jvp(first, self.of(arrays), self.of(dfixed[: self.count]))[1],)


@dataclasses.dataclass(frozen=True)
class _Cotangent(_Form):
    """(arrays, saved | the result's cotangent) -> cotangents of the floats."""

    saved: int = 0

    @property
    def fixed(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.count + self.saved

    def run(self, *args):
        return self.run_on(None, *args)

    def run_on(self, target, *args):
        arrays, saved, cotangent = args[: self.count], args[self.count : self.fixed], args[self.fixed]
        arguments = self.arguments(arrays)
        kernel = self.source.at(target, *arguments)
        if kernel is not None:
            return tuple(kernel.pull(saved, cotangent, *arguments))
        return tuple(jax.vjp(self.plain(arrays), *self.of(arrays))[1](cotangent))

    def shapes(self, *args):
        return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.of(args)]

    def transpose(self, fixed, cotangents):
        return self.operator(_Tangent, saved=self.saved).bind(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        if self.source.plain is None:
            raise self.source.no_derivative("second derivative")
        arrays = fixed[: self.count]
        first = lambda *floats: jax.vjp(self.plain(arrays), *floats)[1](*moving)
        return jax.jvp(first, self.of(arrays), self.of(dfixed[: self.count]))[1]


def _prepared(source: Source, arguments: tuple) -> tuple[_Value, list[Array]]:
    arrays = [a for a in arguments if isinstance(a, jax.Array)]
    template = tuple(_Place.ARRAY if isinstance(a, jax.Array) else a for a in arguments)
    floats = tuple(i for i, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating))
    return _Value(source, template, floats, len(arrays)), arrays


def run(source: Source, *arguments: Any) -> Array:
    """The form on these arguments, by what `source` gives for the platform that the program is lowered for."""
    value, arrays = _prepared(source, arguments)
    return value.bind(*arrays)[0]


def run_where(sources: Sequence[Source], plain: Call, *arguments: Any) -> Array:
    """The form by the source for the platform, and in plain JAX, as ever, on any other."""
    value, arrays = _prepared(sources[0], arguments)

    def branch(source: Source) -> Call:
        return lambda *a: dataclasses.replace(value, source=source).bind(*a)[0]

    chosen = {str(source.platform): branch(source) for source in sources}
    return lax.platform_dependent(*arrays, default=lambda *a: plain(*value.arguments(a)), **chosen)
