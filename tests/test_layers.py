"""The layer and size rules can fail: each rule of ci/layers.py is broken once in a package made for it.

And what an import loads, counted in modules: a clock would depend on the machine.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "ci" / "layers.py"
DOCSTRING = '    """' + "words\n" * 80 + '    """\n'

BROKEN = {
    "kernels at module level": ({"_a.py": "import softjax_pallas.ops\n"}, "imports softjax_pallas"),
    "kernels under try": ({"_a.py": "try:\n    import softjax_pallas\nexcept ImportError:\n    pass\n"}, "_a.py:2"),
    "cycle": ({"_a.py": "from ._b import f\n", "_b.py": "from . import _a\n"}, "import cycle"),
    "long file": ({"_a.py": "x = 1\n" * 601}, "601 lines"),
    "long function": ({"_a.py": "def f():\n" + "    x = 1\n" * 60}, "f has 61 lines"),
    "many parameters": ({"_a.py": "def _f(a, b, c, d, *, e, f, g): ...\n"}, "_f has 7 parameters"),
    "beside the seam": ({"../softjax_pallas/_a.py": "from softjax._sorting import sort\n"}, "not of the seam"),
    "a private name": ({"../softjax_pallas/_a.py": "def f():\n    from softjax._modes import _f\n"}, "not of the seam"),
}

ALLOWED = {
    "kernels inside a function": {"_a.py": "def f():\n    import softjax_pallas\n"},
    "kernels for types": {"_a.py": "if TYPE_CHECKING:\n    import softjax_pallas\n"},
    "many public parameters": {"_a.py": "def f(a, b, c, d, e, f, g): ...\n"},
    "the seam": {
        "../softjax_pallas/_a.py": "from softjax._methods import hard_sort\nfrom softjax._modes import MODES\n"
    },
    "import order": {"__init__.py": "from ._a import f as f\n", "_a.py": "from ._b import f\n", "_b.py": "f = 1\n"},
    "long docstring": {"_a.py": "def f():\n" + DOCSTRING + "    # why\n\n" * 40},
}


def run_on(root: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for package in ("softjax", "softjax_pallas"):
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    for name, text in files.items():
        (root / "softjax" / name).write_text(text)
    return subprocess.run([sys.executable, str(SCRIPT), str(root)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_rule_is_reported(tmp_path, case):
    files, message = BROKEN[case]
    result = run_on(tmp_path, files)
    assert result.returncode == 1
    assert message in result.stdout


@pytest.mark.parametrize("case", ALLOWED)
def test_allowed_form_passes(tmp_path, case):
    result = run_on(tmp_path, ALLOWED[case])
    assert result.returncode == 0, result.stdout


def printed(*statements: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    command = [sys.executable, "-c", "\n".join(statements)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def added(*statements: str) -> set[str]:
    """The modules that statements load beyond those of `import jax`."""
    loaded = "import sys, jax", "before = set(sys.modules)", *statements, "print(*set(sys.modules) - before)"
    return set(printed(*loaded))


@pytest.mark.parametrize("package", ["softjax", "softjax_pallas"])
def test_import_loads_nothing_but_the_packages_own_modules(package):
    """No kernels, no Pallas, no jaxtyping, nothing else that takes longer to import than these packages do."""
    loaded = {name.split(".")[0] for name in added(f"import {package}")}
    assert loaded == {"softjax", package}


def test_a_heavy_module_would_be_seen():
    """The check above can fail: two modules that were once imported."""
    assert {"jaxtyping", "asyncio"} <= added("import jaxtyping", "import softjax")
    assert "jax._src.pallas.core" in added("import jax.experimental.pallas", "import softjax")


@pytest.mark.parametrize(("first", "integers"), [("jax", "True"), ("jaxtyping", "False")])
def test_annotations_are_jaxtypings_where_it_is_imported(first, integers):
    """They can be evaluated either way; jaxtyping's know that an array of integers is no SoftIndex."""
    lines = f"import {first}, jax, typing, softjax as sj", "hints = typing.get_type_hints(sj.argsort)"
    kinds = "isinstance(jax.numpy.ones(3), hints['return']), isinstance(jax.numpy.arange(3), hints['return'])"
    softness = "hints['softness'] == float | jax.Array | None"
    assert printed(*lines, f"print({softness}, {kinds})") == ["True", "True", integers]
