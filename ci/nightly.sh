#!/usr/bin/env bash
# Everything, however long it takes: what ci/check.sh leaves out because it has a quicker case of the same, and what needs
# compilers or other libraries beside JAX. `bash ci/nightly.sh`. It goes on after a part that fails, says at the end which
# did, and exits with status 1 then. No `-e`, so that it can go on.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PIP_NO_INPUT=1
unset PYTHON VENV MAKEFLAGS MAKELEVEL PYTEST_ADDOPTS SUITE || true

failed=()
part() { # part NAME COMMAND...
    local name=$1 start=$SECONDS status=0
    shift
    printf '\n== %s (after %d s)\n' "$name" "$SECONDS"
    "$@" </dev/null || status=$?
    printf -- '-- %s: %s after %d s\n' "$name" "$([ "$status" -eq 0 ] && echo passed || echo "FAILED with status $status")" \
        "$((SECONDS - start))"
    [ "$status" -eq 0 ] || failed+=("$name")
}

suite() { # suite VENV, every test of it
    "$1/bin/python" -c 'import sys, jax; print("Python", sys.version.split()[0], "with JAX", jax.__version__)' &&
        SUITE=all make test VENV="$1"
}

newest() {
    sh ci/venv.sh .venv test && suite .venv
}

oldest() { # Python 3.11 with JAX 0.10
    local python
    python=$(sh ci/python.sh 3.11) || {
        echo "No usable CPython 3.11 found." >&2
        return 1
    }
    PYTHON=$python sh ci/venv.sh .venv-311 test &&
        .venv-311/bin/python -c 'import jax; assert jax.__version__.startswith("0.10."), jax.__version__' &&
        suite .venv-311
}

ahead_of_time() { # also what is sharded over four TPUs
    if ! command -v ptxas >/dev/null; then
        echo "Kernels are not compiled: no ptxas on PATH (a CUDA toolkit, release 13, has it)."
        return 0
    fi
    make aot
}

peers() { # `make peers` without --save: perf/results and docs/performance.md belong together
    sh ci/venv.sh .venv test && .venv/bin/python perf/peers/compare.py
}

part "format, lint, types, layers" make lint
part "all tests, newest Python" newest
part "compiled programs against perf/baseline.json" make gate
part "all kernels ahead of time" ahead_of_time
part "all tests, Python 3.11 with JAX 0.10" oldest
part "other libraries" peers

printf '\n== the end, after %d s\n' "$SECONDS"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "Everything passed."
