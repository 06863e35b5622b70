"""Kernels asked for by name through the public operators."""

import functools
import subprocess
import sys

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import softjax as sj

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 20)), jnp.float32)
CALLS = {
    "top_k": lambda x, **o: sj.top_k(x, 3, **o)[0],
    "sort": lambda x, **o: sj.sort(x, **o),
    "argtop_k": lambda x, **o: sj.argtop_k(x, 3, **o),
    "top_k_mask": lambda x, **o: sj.top_k_mask(x, jnp.asarray([2.5, 20.0]), **o),
}


# SoftSort's averages and the transpose of rows have no kernel.
COMBINATIONS = [
    *((name, method) for name in ("top_k", "argtop_k") for method in ("softsort", "neuralsort", "ot")),
    *(("sort", "neuralsort"), ("sort", "ot"), ("top_k_mask", "ot")),
]


@pytest.mark.parametrize(("name", "method"), COMBINATIONS)
def test_the_named_kernel_agrees_with_xla(name, method):
    """Values and gradients of the operators by the interpreted kernels."""

    def both(implementation):
        def loss(x):
            y = CALLS[name](x, method=method, softness=0.2, implementation=implementation)
            return jnp.sum(jnp.sin(3 * y)), y

        return jax.jit(jax.grad(loss, has_aux=True))(X)

    allowed = cases.tolerance("float32", 20, cases.conditioning(X, 20, 0.2, method), method)
    for have, want in zip(both("pallas_interpret"), both("xla"), strict=True):
        np.testing.assert_allclose(have, want, rtol=0, atol=allowed * np.max(np.abs(want)))


def test_a_named_kernel_never_falls_back():
    """float64 has no kernel, and the error says what can."""
    with jax.enable_x64(True), pytest.raises(NotImplementedError, match="float64.*implementation='xla' can"):
        sj.argsort(np.arange(4.0), implementation="pallas_interpret")
    assert "asked for" in str(sj.explain(sj.argsort, X, implementation="pallas_mosaic_tpu"))


@pytest.mark.parametrize(
    ("implementation", "platform"),
    [("pallas_mosaic_gpu", "cuda"), ("pallas_mosaic_tpu", "tpu")],
)
@pytest.mark.parametrize("method", ["softsort", "neuralsort", "ot"])
def test_a_kernel_for_another_platform(implementation, platform, method):
    """The error says which platform it is for, eagerly and under a transform."""
    argmax = lambda x: jnp.sum(
        sj.argtop_k(x, 64 if method != "ot" else 3, method=method, implementation=implementation) ** 2
    )
    x = jnp.ones((2, 256))
    for function in (argmax, jax.jit(jax.grad(argmax))):
        with pytest.raises(
            NotImplementedError, match=f"for {platform}, and this program is for cpu. implementation='xla' can"
        ):
            function(x)


@pytest.mark.parametrize(("operator", "method"), [("argsort", "softsort"), ("rank", "neuralsort"), ("max", "ot")])
def test_a_form_is_traced_once_for_its_shapes_and_once_for_its_program(monkeypatch, operator, method):
    """The bodies are long: value, what is saved, and cotangent share what was traced."""
    from softjax_pallas.ops.ot.op import TransportKernel
    from softjax_pallas.ops.pairwise import PairwiseKernel

    traced = []

    def counted(name, form):
        return lambda self, *a: traced.append(name) or form(self, *a)

    for kernel in (PairwiseKernel, TransportKernel):
        for name in ("value", "pull"):
            monkeypatch.setattr(kernel, name, counted(name, getattr(kernel, name)))
    run = functools.partial(getattr(sj, operator), axis=-1, method=method, implementation="pallas_mosaic_tpu")
    shape = jax.ShapeDtypeStruct((5, 171), jnp.float32)  # that no other test has
    jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(run(x))))).trace(shape).lower(lowering_platforms=("tpu",))
    assert sorted(traced) == ["pull", "value", "value"]


@pytest.mark.parametrize("method", ["softsort", "neuralsort"])
def test_the_transpose_has_no_kernel(method):
    """A mask that is a sum of rows applies P.T; the error names the remedy."""
    with pytest.raises(NotImplementedError, match="implementation='xla'"):
        sj.top_k_mask(X, 2, method=method, implementation="pallas_interpret")


def test_importing_softjax_imports_no_kernels():
    """The kernels' package is imported when one is named."""
    code = "import sys, softjax; assert 'softjax_pallas' not in sys.modules; import softjax_pallas"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_quantiles_and_reports_of_transport_by_name():
    """Ranks that are traced, each row's own: values are those of plain JAX, and so is the solver's report."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 150)), jnp.float32)
    named, plain = ({"method": "ot", "implementation": name} for name in ("pallas_interpret", "xla"))
    have, want = (jax.jit(lambda x, how=how: sj.quantile(x, 0.3, 1, **how))(x) for how in (named, plain))
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-5)
    assert sj.explain(sj.quantile, x, 0.3, 1, **named).implementation == "pallas_interpret"
    have, want = (sj.soft_permutation(x, **how)[-2:].solver_info() for how in (named, plain))
    jax.tree.map(np.testing.assert_array_equal, have, want)
