"""docs/architecture.md names files and functions that there are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`((?:softjax|softjax_pallas|ci|perf)/[\w/]+(?:\.\w+)?)`(?:\s+`(\w+)`)?")


def defined(path: Path) -> set[str]:
    """The names that a module defines: functions, classes, their methods, and variables."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    targets = [t for n in nodes if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in nodes if isinstance(n, ast.AnnAssign)]
    return names | {t.id for t in targets if isinstance(t, ast.Name)}


def test_every_file_and_function_exists():
    found = NAMED.findall(TEXT)
    assert len(found) > 30 and sum(bool(name) for _, name in found) > 20
    for file, name in found:
        assert (ROOT / file).exists(), file
        assert not name or name in defined(ROOT / file), f"{file} {name}"


def test_every_module_of_the_picture_exists():
    picture = TEXT.split("```mermaid")[1].split("```")[0]
    for file in re.findall(r"\w+\.py", picture):
        assert list((ROOT / "softjax").rglob(file)) or list((ROOT / "softjax_pallas").rglob(file)), file


def test_a_name_that_is_gone_would_be_seen():
    assert "no_such_function" not in defined(ROOT / "softjax" / "_sorting.py")
    assert "top_k" in defined(ROOT / "softjax" / "_sorting.py")
