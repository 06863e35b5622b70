#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lint, types, layer rules; the whole suite on the newest Python;
# every kernel compiled ahead of time for its targets; the gates of compiled programs; and a sample of the suite on the
# oldest supported pair, Python 3.11 with JAX 0.10. Only `make gpu` is left out. The last line is pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_NO_INPUT=1
unset PYTHON VENV MAKEFLAGS MAKELEVEL PYTEST_ADDOPTS SUITE || true

section() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }
describe() { # describe VENV
    "$1/bin/python" -c 'import sys, jax; print("Python", sys.version.split()[0], "with JAX", jax.__version__)'
}

section "format, lint, types, layers"
make lint </dev/null

# Ahead of time beside the suite, which leaves a processor idle at its end.
ahead=
log=$(mktemp)
# Under `set -e` a trap's own failure becomes the script's status, so nothing in this one may fail.
trap '[ -z "$ahead" ] || kill "$ahead" 2>/dev/null || true; rm -f "$log"' EXIT
if command -v ptxas >/dev/null; then
    make aot >"$log" 2>&1 </dev/null &
    ahead=$!
fi

section "tests, newest Python"
sh ci/venv.sh .venv test
describe .venv
SUITE=all make test </dev/null

section "kernels ahead of time"
if [ -n "$ahead" ]; then
    status=0
    wait "$ahead" || status=$?
    ahead=
    if [ $status -ne 0 ]; then
        cat "$log"
        exit $status
    fi
    tail -n 3 "$log"
else
    echo "Not compiled: no ptxas on PATH (a CUDA toolkit, release 13, has it)."
fi

section "compiled programs against perf/baseline.json"
make gate </dev/null

if [ "$(.venv/bin/python -c 'import sys; print(sys.version_info[:2] == (3, 11))')" = True ]; then
    exit 0 # the leg below has just run
fi
if python311=$(sh ci/python.sh 3.11); then
    section "a sample of the tests, Python 3.11 with JAX 0.10"
    PYTHON=$python311 sh ci/venv.sh .venv-311 test
    describe .venv-311
    .venv-311/bin/python -c 'import jax; assert jax.__version__.startswith("0.10."), jax.__version__'
    SUITE=sample make test VENV=.venv-311 </dev/null
fi
