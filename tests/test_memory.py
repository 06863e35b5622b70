"""O(n) memory: in the compiled program, and in everything that a gradient's program names."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
import shapes
from cases import slow_unless

import softjax as sj


def _temporary_bytes(case, n):
    case = dataclasses.replace(case, shape=(n,))
    quick = {"xla_backend_optimization_level": 0}  # LLVM's optimisation comes after the memory is settled
    program = jax.jit(case.value_and_gradient()).lower(case.abstract()).compile(quick)
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("case", shapes.MEMORY, ids=lambda case: case.name)
def test_compiled_memory_grows_linearly(case):
    """Temporary memory of value and gradient: four times the elements take about four times the bytes."""
    small, large = (_temporary_bytes(case, n) for n in shapes.MEMORY_SIZES)
    assert large <= 4.4 * small


def test_the_dense_form_is_quadratic():
    """The check above can fail."""
    dense = shapes.Case("sort", "softsort", (), implementation="dense")
    small, large = (_temporary_bytes(dense, n) for n in (512, 2_048))
    assert large > 9 * small


def largest(jaxpr):
    """The number of elements of the largest array in a jaxpr and the jaxprs inside it."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [math.prod(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape")]
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                sizes.append(largest(inner))
            elif hasattr(value, "evaluate"):  # an operator of ours: what it runs is in none of its parameters
                avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
                sizes.append(largest(jax.make_jaxpr(value.evaluate)(*avals).jaxpr))
    return max(sizes)


K = 7
EVERY = {
    "sort": lambda x, **how: sj.sort(x, **how),
    "payload": lambda x, **how: sj.sort((x, jnp.cos(x)), **how)[1],
    "ranking": lambda x, **how: sj.ranking(x, **how),
    "top_k": lambda x, **how: sj.top_k(x, K, **how)[0],
    "argtop_k": lambda x, **how: sj.argtop_k(x, K, **how),
    "max": lambda x, **how: sj.max(x, **how),
    "argmax": lambda x, **how: sj.argmax(x, **how),
    "quantile": lambda x, **how: sj.quantile(x, 0.3, **how),
    "argmedian": lambda x, **how: sj.argmedian(x, **how),
    "top_k_mask": lambda x, **how: sj.top_k_mask(x, 99.5, **how),
    "product": lambda x, **how: sj.soft_permutation(x, **how) @ x,
    "transposed": lambda x, **how: sj.soft_permutation(x, **how).T @ x,
}


# Modes differ in what SoftSort writes; the other methods' operators have one of the two in turn, and nightly both.
LINES = [
    pytest.param(name, method, mode, marks=slow_unless(method == "softsort" or (i + j + k) % 2 == 0))
    for i, name in enumerate(EVERY)
    for j, method in enumerate(["softsort", "neuralsort", "ot"])
    for k, mode in enumerate(["smooth", "c1"])
]


@pytest.mark.parametrize(("name", "method", "mode"), LINES)
def test_no_array_outgrows_its_row(name, method, mode):
    """No array in value and gradient holds more than a fixed multiple of n elements, at n = 32,768.

    SoftSort's tables of windows in c1 have nine numbers for each element, of either side, and for each column that P is
    applied to: of two payloads four, which tell where their infinities of either sign lie. Transport on points has two
    polynomials for each element and panel, and for each column; those of an unknown softness have 8 panels.
    """
    n = 32_768
    x = jax.ShapeDtypeStruct((n,), jnp.float32)
    loss = lambda x: jnp.sum(jnp.sin(EVERY[name](x, method=method, mode=mode)))
    program = jax.make_jaxpr(jax.value_and_grad(loss))(x)
    columns = 4 if name == "payload" else 2
    limit = 2 * K
    if (method, mode) == ("softsort", "c1"):
        limit = 9 * 2 * columns
    elif (method, mode) == ("ot", "smooth") and name in ("product", "transposed"):
        limit = 8 * 2 * (columns + 1)
    assert largest(program.jaxpr) <= limit * n


def test_a_dense_array_is_seen():
    """The check above can fail."""
    program = jax.make_jaxpr(lambda x: sj.sort(x, implementation="dense"))(jnp.zeros(100))
    assert largest(program.jaxpr) >= 100 * 100
