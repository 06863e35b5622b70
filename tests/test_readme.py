"""README.md, docs/*.md and the docstrings say what the code does: their examples are run and compared.

A ```python block runs in the namespace of the blocks before it in the same file. Where a ```text block
follows it directly, that is what it prints: the text must agree word for word, the numbers to the printed digits.
"""

import contextlib
import doctest
import importlib
import inspect
import io
import itertools
import math
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest
from cases import slow_unless

import softjax
from softjax_pallas._kernel import OLDEST_JAX, jax_version

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?!\w)|(?<!\w)[-+]?(?:nan|inf)(?!\w)")

# Arrays are printed to eight decimals with trailing zeros dropped, so that `1.` still means 1.00000000.
PRINTED_UNIT = 1e-8
# A scalar is printed with all its digits, the last of which is within rounding.
ROUNDING_64 = 4 * 2.0**-52
TOLERANCE_32 = 1e-5


@dataclass(frozen=True)
class Example:
    """One ```python block and the output printed under it, if any."""

    line: int
    code: str
    output: str | None


def examples(text: str) -> list[Example]:
    """The python blocks of a page, each with the text block that follows it directly."""
    found = []
    blocks = list(FENCE.finditer(text))
    for block, following in itertools.zip_longest(blocks, blocks[1:]):
        if block[1] != "python":
            continue
        direct = following is not None and following[1] == "text" and not text[block.end() : following.start()].strip()
        output = following[2] if direct else None
        found.append(Example(text.count("\n", 0, block.start()) + 1, block[2], output))
    return found


def last_unit(printed: str) -> float:
    """One unit in the last digit of a printed number."""
    mantissa, _, exponent = printed.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals)


def difference(wanted: str, got: str, *, x64: bool) -> str | None:
    """Where two printed texts differ, or None: same words in the same order, numbers to the printed digits."""
    words, got_words = (re.sub(r"\s+", "", NUMBER.sub("#", text)) for text in (wanted, got))
    if words != got_words:
        return f"the text differs: wanted {wanted!r}, got {got!r}"
    for a, b in zip(NUMBER.findall(wanted), NUMBER.findall(got), strict=True):
        # 1.01: the difference of two printed numbers is itself rounded.
        tolerance = max(1.01 * min(last_unit(a), PRINTED_UNIT), ROUNDING_64) if x64 else TOLERANCE_32
        x, y = float(a), float(b)
        if not (x == y or (math.isnan(x) and math.isnan(y)) or abs(x - y) <= tolerance):
            return f"wanted {a}, got {b}"
    return None


@contextlib.contextmanager
def defaults(x64: bool):
    """JAX's own settings, as a reader has them, whatever the suite has set."""
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# In float64 numbers are compared to the printed digits; the README in both precisions, the others' second is slow.
PRECISIONS = [
    pytest.param(page, x64, id=f"{page.name}-{'x64' if x64 else 'x32'}", marks=slow_unless(x64 or page == PAGES[0]))
    for page in PAGES
    for x64 in (True, False)
]


@pytest.mark.parametrize(("page", "x64"), PRECISIONS)
def test_page(page, x64):
    if page.name == "kernels.md" and jax_version() < OLDEST_JAX:
        pytest.skip("kernels need JAX >= 0.11")
    namespace = {"__name__": page.name}
    with defaults(x64):
        for example in examples(page.read_text(encoding="utf-8")):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                # Padding by newlines makes a traceback show the page's own line.
                exec(compile("\n" * example.line + example.code, str(page), "exec"), namespace)
            if example.output is None:
                continue
            wanted, got = (re.split(r"\n(?=\S)", text.strip()) for text in (example.output, printed.getvalue()))
            for a, b in itertools.zip_longest(wanted, got, fillvalue=""):
                found = difference(a, b, x64=x64)
                assert found is None, f"{page.name}, the block at line {example.line}, {a.split(':')[0]!r}: {found}"


def test_readme_shows_its_examples():
    shown = examples((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(shown) == 7
    assert all(example.output for example in shown)


@pytest.mark.parametrize(
    ("got", "x64", "agrees"),
    [
        ("max: [1.        0.99935490]", True, True),
        ("max: [ 1.  0.9993549]", True, True),
        ("max: [1. 0.99935491]", True, True),
        ("max: [1. 0.99935496]", True, False),
        ("max: [1. 0.99935496]", False, True),
        ("max: [1.0001 0.9993549]", False, False),
        ("min: [1. 0.9993549]", True, False),
        ("max: [1. 0.9993549 0.]", True, False),
    ],
)
def test_comparison_of_printed_texts(got, x64, agrees):
    assert (difference("max: [1.        0.9993549 ]", got, x64=x64) is None) == agrees


class PrintedNumbers(doctest.OutputChecker):
    """Compares a docstring's output as a page's, in JAX's default precision."""

    def check_output(self, want, got, optionflags):
        return difference(want, got, x64=False) is None


def docstring_examples():
    known = {"sj": softjax, "jax": jax, "jnp": jax.numpy}
    names = [info.name for info in pkgutil.walk_packages(softjax.__path__, "softjax.")]
    seen = set()
    for name in ["softjax", *names]:
        module = importlib.import_module(name)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=known):
            key = (test.filename, test.docstring)
            if test.examples and key not in seen:
                seen.add(key)
                yield test


def test_docstring_examples():
    report = io.StringIO()
    runner = doctest.DocTestRunner(checker=PrintedNumbers(), verbose=False)
    with defaults(x64=False):
        for example in docstring_examples():
            runner.run(example, out=report.write)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


def public_names():
    names = [name for name in vars(softjax) if not name.startswith("_")]
    modules = {name for name in names if isinstance(getattr(softjax, name), type(softjax))}
    return sorted(set(names) - modules)


@pytest.mark.parametrize("name", public_names())
def test_public_name_is_documented(name):
    """docs/operators.md names every public name; a derived `*_st` form goes by its operator's."""
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert re.search(rf"`{re.escape(name.removesuffix('_st'))}[`(]", text), f"docs/operators.md does not name `{name}`"


SHORTHAND = {
    "SOFT": 'softness=0.1, mode="smooth"',
    "ORDER": 'softness=0.1, mode="smooth", method=..., standardize=None, implementation=None',
    "LOG": "return_log_probs=False, log_prob_eps=0.0",
}


def documented_signatures():
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    return re.findall(r"`(\w+)\(([^`]*)\)`", text)


@pytest.mark.parametrize(("name", "parameters"), documented_signatures())
def test_documented_signature(name, parameters):
    """Names, kinds, defaults and positional order; keyword-only parameters in any order."""
    for short, full in SHORTHAND.items():
        parameters = parameters.replace(short, full)
    namespace = {}
    exec(f"def documented({parameters}): ...", namespace)
    wanted, got = (inspect.signature(fn).parameters for fn in (namespace["documented"], getattr(softjax, name)))
    assert set(wanted) == set(got)
    assert [p for p in wanted if wanted[p].kind != wanted[p].KEYWORD_ONLY] == [
        p for p in got if got[p].kind != got[p].KEYWORD_ONLY
    ]
    for parameter in wanted:
        assert wanted[parameter].kind == got[parameter].kind, parameter
        # `...` stands for the method's default, which docs/softness.md has for each operator.
        assert wanted[parameter].default in (..., got[parameter].default), parameter
