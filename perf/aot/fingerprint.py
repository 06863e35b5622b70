"""A lowered program's fingerprint: of what the compilers are given, without the lines of source that it came from.

The same fingerprint under the same compilers means the same executable, so that `compile.py` need not make it again.
"""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

HERE = Path(__file__).parent
_TOOLS = ("buffers.py", "bundles.py", "compile.py", "fingerprint.py", "targets.py")
"""They say how a program is compiled, and read the compilers' reports."""
_BYTECODE = b"ML\xefR"


def of(lowered: jax.stages.Lowered, target: str) -> str:
    """Hexadecimal digits; of a program lowered where `jax_traceback_in_locations_limit` is 0.

    Even there the bytecode of a Mosaic GPU kernel has paths of files, and its hash depends on them: the text counts.
    """
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir

    found = hashlib.sha256(target.encode())
    for name in (*_TOOLS, f"{target}.txtpb"):
        if (HERE / name).exists():
            found.update((HERE / name).read_bytes())
    program = lowered.compiler_ir("stablehlo").operation.clone()

    def text_of(bytecode: bytes) -> str:
        context = mlir.make_ir_context()
        context.allow_unregistered_dialects = True
        with context:
            return ir.Module.parse(bytecode).operation.get_asm(print_generic_op_form=True, enable_debug_info=False)

    def visit(op: ir.Operation) -> ir.WalkResult:
        config = op.attributes["mhlo.backend_config"] if "mhlo.backend_config" in op.attributes else ()
        if "kernel_hash" in config:
            module = ir.StringAttr(config["module"]).value_bytes
            assert module.startswith(_BYTECODE), module[:16]
            found.update(text_of(module).encode())
            kept = {part.name: part.attr for part in config if part.name not in ("kernel_hash", "module")}
            op.attributes["mhlo.backend_config"] = ir.DictAttr.get(kept)
        return ir.WalkResult.ADVANCE

    with program.context:
        program.walk(visit)
        found.update(program.get_asm(enable_debug_info=False).encode())
    return found.hexdigest()[:32]


def known(
    rows: Sequence[dict], kernels: Sequence[tuple[str, ...]], record: Mapping[str, Mapping[str, str]]
) -> list[int]:
    """Places of the rows that need not be compiled: seven in eight of those with the fingerprint in the record.

    Where two programs share a kernel, the first one compiled in a process has its registers: both are, or none.
    """

    def is_known(row: dict) -> bool:
        name = f"{row['target']} {row['implementation']} {row['kernel']}"
        recorded = record.get(row["compiler"], {}).get(name)
        return "error" not in row and recorded == row["fingerprint"] and zlib.crc32(name.encode()) % 8 > 0

    left = [place for place, row in enumerate(rows) if is_known(row)]
    compiled = set(range(len(rows))) - set(left)
    while more := {place for place in left if any(set(kernels[place]) & set(kernels[other]) for other in compiled)}:
        compiled |= more
        left = [place for place in left if place not in more]
    return left
