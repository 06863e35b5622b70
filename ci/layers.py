"""Layer and size rules of the packages, from their syntax trees: `python ci/layers.py [ROOT]`.

- `softjax` does not import `softjax_pallas` when it is imported (inside a function is allowed).
- No cycle among the module-level imports of a package.
- `softjax_pallas` imports from the modules of `softjax` that are its seam, and no private name of theirs.
- No file over 600 lines; no function over 60 lines of code (docstring, comments and blank lines not counted).
- No private function with more than 6 parameters.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGES = ("softjax", "softjax_pallas")
FORBIDDEN = {"softjax": "softjax_pallas"}
SEAM = {
    "softjax_pallas": (
        "softjax",
        {
            *("_dispatch", "_kernel_form", "_modes", "_primitive", "_types"),
            *("_methods", "_methods.base", "_methods.hard_sort", "_methods.ties", "_methods.softsort.definition"),
            *("_methods.neuralsort.band.passes", "_methods.ot.method", "_methods.ot.semidual_newton"),
        },
    )
}
"""Package -> another one, and those of its modules that the package may import."""
FILE_LINES = 600
FUNCTION_LINES = 60
PARAMETERS = 6
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def import_time(node: ast.AST) -> Iterator[ast.stmt]:
    """The import statements that run when the module is imported, also under `if`, `try` and `class`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, FUNCTIONS | ast.Lambda) and not is_type_checking(child):
            yield from import_time(child)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(statement: ast.stmt, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names that a statement may import; `from a import b` names both `a` and `a.b`."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        base = statement.module or ""
        if statement.level:
            parts = module.split(".")
            parents = parts[: len(parts) - statement.level + is_package]
            base = ".".join([*parents, *([base] if base else [])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in statement.names)


def code_lines(function: FUNCTIONS, code: set[int]) -> int:
    """Lines of the function that hold code; `code` has the numbers of such lines in its file."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = set(range(first.lineno, (first.end_lineno or first.lineno) + 1)) if documented else set()
    return len(code.intersection(range(function.lineno, (function.end_lineno or 0) + 1)) - docstring)


def lines_with_code(source: str) -> set[int]:
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def size_problems(path: Path, source: str, tree: ast.Module) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, more than {FILE_LINES}"
    code = lines_with_code(source)
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and (length := code_lines(node, code)) > FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {length} lines of code, more than {FUNCTION_LINES}"
        if isinstance(node, FUNCTIONS) and is_private(node.name) and (count := parameters(node)) > PARAMETERS:
            yield f"{path}:{node.lineno}: {node.name} has {count} parameters, more than {PARAMETERS}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def parameters(function: FUNCTIONS) -> int:
    given = function.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)


def seam_problems(path: Path, tree: ast.Module, other: str, modules: set[str]) -> Iterator[str]:
    """What a module imports of another package beside the seam; inside functions, too."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        base = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            name = f"{base}.{alias.name}" if base else alias.name
            if isinstance(node, ast.ImportFrom) and node.level or name.split(".")[0] != other:
                continue
            inside = name.removeprefix(f"{other}.")
            module = next((m for m in modules if inside == m or inside.startswith(f"{m}.")), None)
            if module is None or is_private(inside.removeprefix(module).removeprefix(".")):
                yield f"{path}:{node.lineno}: imports {name}, which is not of the seam to {other}"


def package_problems(root: Path, package: str) -> Iterator[str]:
    modules = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        modules[".".join(parts[:-1] if is_package else parts)] = (path, is_package)
    if not modules:
        yield f"{root / package}: no modules found"

    graph: dict[str, set[str]] = {}
    for module, (path, is_package) in modules.items():
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source, str(path))
        yield from size_problems(path, source, tree)
        if package in SEAM:
            yield from seam_problems(path, tree, *SEAM[package])
        needs = graph.setdefault(module, set())
        for statement in import_time(tree):
            targets = set(imported(statement, module, is_package))
            forbidden = FORBIDDEN.get(package)
            if forbidden and any(name.split(".")[0] == forbidden for name in targets):
                yield f"{path}:{statement.lineno}: {package} imports {forbidden} at module level"
            # Of `from . import _modes` the submodule is what is needed, not the package around it.
            known = targets & modules.keys() - {module}
            needs |= {name for name in known if not any(other.startswith(f"{name}.") for other in known)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"{root / package}: import cycle {' -> '.join(reversed(error.args[1]))}"


def main(root: Path) -> int:
    problems = [problem for package in PACKAGES for problem in package_problems(root, package)]
    print("\n".join(problems) if problems else f"layer and size rules hold for {', '.join(PACKAGES)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent))
