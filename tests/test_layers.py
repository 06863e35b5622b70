"""The layer and size rules can fail: each rule of ci/layers.py is broken once in a package made for it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "ci" / "layers.py"
DOCSTRING = '    """' + "words\n" * 80 + '    """\n'

BROKEN = {
    "kernels at module level": ({"_a.py": "import softjax_pallas.transport\n"}, "imports softjax_pallas"),
    "kernels under try": ({"_a.py": "try:\n    import softjax_pallas\nexcept ImportError:\n    pass\n"}, "_a.py:2"),
    "cycle": ({"_a.py": "from ._b import f\n", "_b.py": "from . import _a\n"}, "import cycle"),
    "long file": ({"_a.py": "x = 1\n" * 401}, "401 lines"),
    "long function": ({"_a.py": "def f():\n" + "    x = 1\n" * 60}, "f has 61 lines"),
}

ALLOWED = {
    "kernels inside a function": {"_a.py": "def f():\n    import softjax_pallas\n"},
    "kernels for types": {"_a.py": "if TYPE_CHECKING:\n    import softjax_pallas\n"},
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
