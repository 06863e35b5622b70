"""What runs where nobody named an implementation: kernels on GPU and TPU from a size on, plain JAX otherwise."""

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from cases import x64
from test_path import DEVICES, TARGETS, described

import softjax as sj
import softjax_pallas
from softjax._modes import MODES
from softjax._primitive import Target
from softjax_pallas import _selection as choice
from softjax_pallas import tuning
from softjax_pallas.ops.pairwise import KERNELS, PairwiseKernel, refusal

LARGE, SMALL = (512, 1024), (4, 1024)


class Device:
    """What a choice asks of a device."""

    def __init__(self, kind, capability=None):
        self.device_kind, self.compute_capability = kind, capability


def top_k(x, k=3, **how):
    return jnp.sum(jnp.sin(3 * sj.top_k(x, k, method="ot", **how)[0]))


def ordered(x, method="softsort", **how):
    """A weighted sum of the whole soft permutation."""
    p = sj.argsort(x, method=method, **how)
    return jnp.sum(p @ jnp.sin(jnp.arange(p.shape[-1], dtype=p.dtype)))


def mask(x):
    return jnp.sum(jnp.sin(3 * sj.top_k_mask(x, 2.5)))


def text(function, shape, platform, dtype=jnp.float32):
    """A program lowered for a platform that this machine need not have."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    return jax.jit(function).trace(x).lower(lowering_platforms=(platform,)).as_text()


def kernels_in(text):
    return [name for name in ("transport_forward", "transport_backward") if name in text]


@pytest.mark.parametrize("function", [top_k, mask])
def test_kernels_are_chosen_on_a_tpu(function):
    """Value and gradient run as one kernel each."""
    assert kernels_in(text(function, LARGE, "tpu")) == ["transport_forward"]
    assert kernels_in(text(jax.grad(function), LARGE, "tpu")) == ["transport_forward", "transport_backward"]


def test_a_kernel_by_name_solves_once():
    """Values and soft indices of a top-k are of one plan, as where nobody named an implementation."""

    def both(x, **how):
        values, rows = sj.top_k(x, 3, method="ot", **how)
        return jnp.sum(jnp.sin(values)) + jnp.sum(rows**2)

    named = text(partial(both, implementation="pallas_mosaic_tpu"), LARGE, "tpu")
    assert named.count("tpu_custom_call") == text(both, LARGE, "tpu").count("tpu_custom_call") == 1


def test_small_calls_and_the_cpu_run_plain_jax():
    """Nothing changes where there is no kernel, or where it would not pay."""
    gradient = jax.grad(top_k)
    assert not kernels_in(text(gradient, SMALL, "tpu"))
    assert not kernels_in(text(gradient, LARGE, "cpu"))
    assert not kernels_in(text(gradient, LARGE, "cuda"))  # no device says what it can run
    assert not kernels_in(text(jax.grad(lambda x: top_k(x, 100)), LARGE, "tpu"))
    with x64():
        assert not kernels_in(text(gradient, LARGE, "tpu", jnp.float64))


def compiled_program(case):
    """The CPU's program of value and gradient: its instructions, and what its results are made of, by digest.

    The order of instructions that do not need each other, and their names, are not the same from one time to the next.
    """
    x = jax.ShapeDtypeStruct(case.shape, jnp.float32)
    text = jax.jit(case.value_and_gradient()).lower(x).compile().as_text()
    text = re.sub(r",? metadata=\{[^}]*\}", "", text[re.search(r"^(ENTRY )?%", text, re.MULTILINE).start() :])
    digests, instructions, result, computation = {}, [], None, None
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?(%[\w.-]+) \(", line):
            computation = header[1]
        elif found := re.match(r" *(ROOT )?(%[\w.-]+) = (.*)", line):
            instructions.append(re.sub(r"%[\w.-]+", "%", found[3]))
            what = re.sub(r"%[\w.-]+", lambda name: digests[name[0]], found[3])
            digests[found[2]] = hashlib.sha256(what.encode()).hexdigest()
            if found[1]:
                digests[computation] = result = digests[found[2]]
    return sorted(instructions), result


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what a CPU runs")
@pytest.mark.parametrize(
    "operator, method",
    [("sort", "softsort"), ("rank", "neuralsort"), ("top_k", "ot"), ("mask", "ot"), ("max", "ot")]
    + [("argsort", "softsort"), ("argsort", "neuralsort"), ("sort", "neuralsort"), ("mask", "neuralsort")],
)
def test_a_program_for_the_cpu_is_that_of_plain_jax(operator, method):
    """Once compiled, value and gradient have no trace of the choice."""
    case = shapes.Case(operator, method, LARGE, k=32 if operator == "top_k" else None)
    assert compiled_program(case) == compiled_program(replace(case, implementation="xla"))


@pytest.mark.parametrize("implementation", DEVICES)
def test_kernels_are_chosen_for_a_gpu_that_is_described(implementation):
    """Its name tells what it can run; of one that nobody knows, plain JAX is asked."""
    with described(DEVICES[implementation]):
        program = text(jax.grad(top_k), LARGE, "cuda")
    assert kernels_in(program) == ["transport_forward", "transport_backward"] and TARGETS[implementation][1] in program
    with described("A GPU"):
        assert not kernels_in(text(jax.grad(lambda x: top_k(x + 0)), LARGE, "cuda"))


def test_an_h200_multiplies_by_the_transpose_in_kernels():
    """Masks by NeuralSort, value and gradient, without an array of n x n."""
    with described(DEVICES["pallas_mosaic_gpu"]):
        program = text(jax.grad(lambda x: masked(x, "neuralsort")), (64, 256), "cuda")
    found = set(re.findall(r"softjax_neuralsort_\w+?(?=_mosaic_gpu)", program))
    assert found == {f"softjax_neuralsort_{name}" for name in ("apply", "back_rows", "back_columns")}
    assert "256x256x" not in program


def test_vmap_makes_the_batch():
    """Rows of a vmapped call count."""
    assert kernels_in(text(jax.vmap(jax.grad(top_k)), LARGE, "tpu")) == ["transport_forward", "transport_backward"]


def test_exported_programs_hold_a_kernel_for_each_platform():
    """One program for several platforms: a kernel where there is one, plain JAX elsewhere."""
    program = jax.export.export(jax.jit(jax.grad(top_k)), platforms=("cpu", "tpu"))(
        jax.ShapeDtypeStruct(LARGE, jnp.float32)
    )
    assert kernels_in(program.mlir_module()) == ["transport_forward", "transport_backward"]
    x = np.random.default_rng(0).normal(size=LARGE).astype(np.float32)
    # Float32 sums in another order: an exported program takes all keys at once, a CPU's own a chunk at a time.
    np.testing.assert_allclose(program.call(x), jax.jit(jax.grad(top_k))(x), atol=5e-6)


def test_checkpoint_forward_mode_and_second_derivatives_are_those_of_plain_jax():
    """A program with a branch for kernels has every derivative, equal to that of the fast form by name."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 600)), jnp.float32)
    plain = lambda x: top_k(x, implementation="xla")

    def derivatives(f):
        first = jax.grad(jax.checkpoint(f))
        return (
            first(x),
            jax.jvp(f, (x,), (jnp.cos(x),))[1],
            jax.grad(lambda x: jnp.vdot(first(x), jnp.cos(x)))(x),
            jax.jvp(jax.grad(f), (x,), (jnp.cos(x),))[1],
            jax.vmap(jax.grad(lambda row: f(row[None])))(x),
        )

    jax.config.update("jax_disable_most_optimizations", False)
    for have, want in zip(jax.jit(lambda: derivatives(top_k))(), jax.jit(lambda: derivatives(plain))(), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=1e-5 * float(jnp.max(jnp.abs(want))))


def by_interpreter(monkeypatch):
    """Make this machine's CPU a platform with kernels."""
    monkeypatch.setitem(choice.PLATFORMS, "cpu", ("pallas_interpret",))
    rule = tuning.Rule(("rows", "apply", "rank", "mask"), 8, 1, 33)
    monkeypatch.setattr(tuning, "rule", lambda method, platform, kind=None: rule if platform == "cpu" else None)
    monkeypatch.setattr(choice, "_by_capability", lambda target: "pallas_interpret")


@pytest.mark.parametrize("function", [top_k, mask])
def test_the_branch_of_a_platform_with_kernels(monkeypatch, function):
    """Values, gradients, vmap and every derivative through the kernel's branch, interpreted on the CPU."""
    by_interpreter(monkeypatch)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 37)), jnp.float32)
    run = jax.jit(lambda x: (jax.value_and_grad(function)(x), jax.vmap(jax.grad(lambda r: function(r[None])))(x)))
    assert "while" in run.lower(x).as_text()
    found = choice.pick("ot", "mask", Target("cpu"), x, jnp.ones(2), jnp.ones(2), None)
    assert found[0] == "pallas_interpret"
    (value, gradient), rows = run(x)
    second = lambda x: jax.jvp(jax.grad(function), (x,), (x,))[1]
    curvature = jax.jit(second)(x)
    forward = jax.jit(lambda x: jax.jvp(function, (x,), (x,))[1])(x)
    monkeypatch.undo()
    jax.clear_caches()
    plain, want = jax.jit(jax.value_and_grad(function))(x)
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    for have in (gradient, rows):
        np.testing.assert_allclose(have, want, atol=2e-5 * float(jnp.max(jnp.abs(want))))
    np.testing.assert_allclose(forward, jnp.vdot(want, x), rtol=1e-4, atol=1e-4)
    exact = jax.jit(second)(x)
    np.testing.assert_allclose(curvature, exact, atol=2e-4 * float(jnp.max(jnp.abs(exact))))


def banded(x, method):
    """All averages of another array."""
    return jnp.sum(sj.sort(x, method=method) * jnp.cos(jnp.arange(x.shape[1], dtype=x.dtype))[None])


def ranked(x, method):
    return jnp.sum(jnp.sin(sj.rank(x, axis=-1, method=method)))


def masked(x, method):
    """What the transpose of P is for."""
    return jnp.sum(jnp.sin(3 * sj.top_k_mask(x, 5.5, method=method)))


@pytest.mark.parametrize(
    ("method", "operator", "op"),
    [
        ("softsort", ordered, "rows"),
        ("neuralsort", ranked, "rank"),
        ("neuralsort", masked, "transposed"),  # which runs the kernel of averages
        pytest.param("neuralsort", ordered, "rows", marks=pytest.mark.slow),
        pytest.param("neuralsort", banded, "apply", marks=pytest.mark.slow),
    ],
)
def test_the_pairwise_orders_where_a_rule_chooses_them(monkeypatch, method, operator, op):
    """Value, gradient, vmap, forward mode, and of rows a second derivative, interpreted on the CPU."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 19)), jnp.float32)
    call = partial(operator, method=method)

    def everything(x):
        gradient = jax.grad(call)
        return (
            call(x),
            gradient(x),
            jax.vmap(lambda row: gradient(row[None])[0])(x),
            jax.jvp(call, (x,), (jnp.cos(x),))[1],
            # It is that of plain JAX, whatever the form, and the others' take long to compile.
            jax.jvp(gradient, (x,), (jnp.cos(x),))[1] if op == "rows" else x,
        )

    want = jax.jit(everything)(x)
    by_interpreter(monkeypatch)
    jax.clear_caches()
    entry = MODES["smooth"]
    more = {
        "rows": (range(19),),
        "apply": (range(19), None),
        "rank": (),
        "transposed": (range(19), jnp.ones((2, 19, 1))),
    }[op]
    arguments = x, *more, jnp.ones(2), entry
    assert choice.pick(method, op, Target("cpu"), *arguments)[0] == "pallas_interpret"
    assert softjax_pallas.tiles(method, op, "pallas_interpret", *arguments)
    seen = []
    value, pull = PairwiseKernel.value, PairwiseKernel.pull
    monkeypatch.setattr(PairwiseKernel, "value", lambda self, *a: seen.append((self.op, "value")) or value(self, *a))
    monkeypatch.setattr(PairwiseKernel, "pull", lambda self, *a: seen.append((self.op, "pull")) or pull(self, *a))
    have = jax.jit(everything)(x)
    runs = "apply" if op == "transposed" else op
    assert {(runs, "value"), (runs, "pull")} <= set(seen)
    monkeypatch.undo()
    jax.clear_caches()
    rounding = {"softsort": 2e-5, "neuralsort": 2e-4}[method]  # NeuralSort's logits are sums of n distances
    for mine, plain in zip(have, want, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=0, atol=rounding * max(1.0, float(jnp.max(jnp.abs(plain)))))


@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize(("method", "op"), [(method, op) for method, ops in KERNELS.items() for op in ops])
def test_what_a_kernel_saves_is_told_without_it(method, op, mode):
    """The same shapes for every compiler, few rows and many."""
    x, tau = jax.ShapeDtypeStruct((3, 300), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)
    for ranks in (range(300), range(228, 300), range(290, 300)):
        more = {"rows": (ranks,), "apply": (ranks, None), "rank": ()}[op]
        told = PairwiseKernel.saved(method, op, x, *more, tau, MODES[mode])
        for implementation in ("pallas_mosaic_gpu", "pallas_mosaic_tpu"):
            if refusal(implementation, method, op, x, *more, tau, MODES[mode]) is None:
                kernel = PairwiseKernel(implementation, method, op)
                value = lambda x, tau, k=kernel, m=more: k.value(x, *m, tau, MODES[mode])
                found = jax.eval_shape(value, x, tau)[1]
                assert [(s.shape, s.dtype) for s in found] == [(s.shape, s.dtype) for s in told]


def test_a_choice_of_rows_by_device_and_size(monkeypatch):
    """A file of one device kind chooses for that kind alone; ranks that are no range, and few, get plain JAX."""
    rule = {"ops": ["rows"], "least_keys": 256, "least_batch": 1, "most_anchors": 1}
    table = tuning.table({"measured": True, "kernels": {"softsort": {"cuda": rule}}})
    h200 = Target("cuda", Device("NVIDIA H200", "9.0"))
    monkeypatch.setattr(tuning, "_stored", lambda kind: table if kind == "NVIDIA H200" else tuning.Table())
    monkeypatch.setattr(tuning, "kinds", lambda: (None, "NVIDIA H200"))

    def pick(target=h200, n=1024, ranks=None, method="softsort", dtype=jnp.float32):
        x = jax.ShapeDtypeStruct((2, n), dtype)
        return choice.pick(method, "rows", target, x, range(n) if ranks is None else ranks, None, MODES["smooth"])

    assert pick() == ("pallas_mosaic_gpu", "chosen for cuda by size (measured)")
    for refused, reason in [
        (pick(n=255), "shorter than 256"),
        (pick(ranks=range(10)), "64 rows and columns"),
        (pick(ranks=np.arange(1024.0)), "traced"),
        (pick(method="neuralsort"), "no kernel is chosen"),
        (pick(dtype=jnp.bfloat16), "float32"),
        (pick(Target("cuda", Device("NVIDIA B200", "10.0"))), "no kernel is chosen"),
    ]:
        assert refused[0] is None and reason in refused[1]
    x = jax.ShapeDtypeStruct((2, 1024), jnp.float32)
    assert choice.sources("softsort", "rows", None, x, range(1024), None, MODES["smooth"])
    assert not choice.sources("neuralsort", "rows", None, x, range(1024), None, MODES["smooth"])


def test_a_choice_by_device():
    """Compute capability decides between compilers; an unknown device gets plain JAX; reasons are given."""
    x, ranks = jax.ShapeDtypeStruct(LARGE, jnp.float32), range(1021, 1024)
    pick = lambda target, x=x, ranks=ranks: choice.pick("ot", "rows", target, x, ranks, None, None)
    assert pick(Target("cuda", Device("NVIDIA H200", "9.0")))[0] == "pallas_mosaic_gpu"
    assert pick(Target("cuda", Device("NVIDIA B200", "10.0")))[0] == "pallas_mosaic_gpu"
    for target, reason in [
        (Target("cuda", Device("NVIDIA A100", "8.0")), "A100"),
        (Target("cuda", Device("Tesla V100", "7.0")), "V100"),
        (Target("cuda"), "unknown cuda device"),
        (Target("cpu"), "cpu"),
    ]:
        implementation, why = pick(target)
        assert implementation is None and reason in why
    small = jax.ShapeDtypeStruct(SMALL, jnp.float32)
    assert "4 rows are fewer than 8" in pick(Target("tpu", Device("TPU v5e")), small)[1]
    assert "33" in pick(Target("tpu", Device("TPU v5e")), ranks=range(924, 1024))[1]
    assert "not measured" in pick(Target("tpu", Device("TPU v5e")))[1]


def test_an_older_jax_runs_plain_jax(monkeypatch):
    """And explain says so."""
    monkeypatch.setattr(choice, "jax_version", lambda: (0, 10))
    assert not kernels_in(text(lambda x: top_k(x + 0), LARGE, "tpu"))
    x = jax.ShapeDtypeStruct(LARGE, jnp.float32)
    assert "JAX >= 0.11" in choice.pick("ot", "rows", Target("tpu"), x, range(3), None, None)[1]


def test_explain_of_kernels():
    """Shapes will do, and a kernel's tiles are told."""
    x = jax.ShapeDtypeStruct(LARGE, jnp.float32)
    named = sj.explain(sj.top_k, x, 3, method="ot", implementation="pallas_mosaic_tpu")
    assert named.implementation == "pallas_mosaic_tpu" and named.tiles["keys"] == 512
    assert sj.explain(sj.argsort, x, implementation="pallas_mosaic_gpu").tiles["rows"] == 64
    chosen = sj.explain(sj.top_k, x, 3, method="ot")
    assert chosen.implementation == "xla" and chosen.tiles is None and "cpu" in chosen.reason


def test_a_cpu_imports_no_pallas():
    """Not for the largest call with its gradient, either."""
    code = """
import sys, jax, jax.numpy as jnp, softjax as sj
before = set(sys.modules)
f = lambda x: jnp.sum(sj.top_k(x, 3, method="ot")[0] ** 2)
jax.jit(jax.grad(f)).lower(jnp.ones((128, 512)))
new = {name for name in set(sys.modules) - before if "pallas" in name and not name.startswith("softjax_pallas")}
assert "softjax_pallas" in sys.modules and not new, new
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("implementation", ["pallas_interpret"])
@pytest.mark.parametrize("method", ["softsort", "neuralsort", "ot"])
def test_a_named_kernel_names_the_remedy(method, implementation):
    """Forward mode and second derivatives do not go through a kernel."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20)), jnp.float32)
    f = lambda x: jnp.sum(jnp.sin(sj.top_k(x, 3, method=method, implementation=implementation)[0]))
    with pytest.raises(NotImplementedError, match="forward mode.*implementation='xla' can"):
        jax.jvp(f, (x,), (x,))
    with pytest.raises(NotImplementedError, match="second derivative.*implementation='xla' can"):
        jax.jit(jax.hessian(f))(x)
