#!/usr/bin/env bash
# What must hold before a change lands: format, lint, types, layer rules; the suite on the newest Python, without what is
# marked slow, and beside it every kernel ahead of time for its targets (lowered, and compiled where the compilers' input
# is not what it was when perf/fingerprints-aot.json was written, and an eighth of the others) and the gate of compiled
# programs; a sample of the suite on the oldest supported pair, Python 3.11 with JAX 0.10. The aim is 15 minutes on two
# idle cores, at most 20. ci/nightly.sh runs the rest. The last line is pytest's; the time is on a line before the sample.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_NO_INPUT=1
unset PYTHON VENV MAKEFLAGS MAKELEVEL PYTEST_ADDOPTS SUITE || true

section() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }
whole_time() { # copies its input, with the time that all took above the last line
    local line held=
    IFS= read -r held || true
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$held"
        held=$line
    done
    section "everything"
    printf '%s\n' "$held"
}
describe() { # describe VENV
    "$1/bin/python" -c 'import sys, jax; print("Python", sys.version.split()[0], "with JAX", jax.__version__)'
}

section "format, lint, types, layers"
make lint </dev/null

sh ci/venv.sh .venv test
python311=
if [ "$(.venv/bin/python -c 'import sys; print(sys.version_info[:2] == (3, 11))')" = False ]; then
    python311=$(sh ci/python.sh 3.11) || python311=
fi

# Beside the suite, which leaves a processor idle at its end: all that is no test. It stops at the first failure.
logs=$(mktemp -d)
beside() {
    if command -v ptxas >/dev/null; then
        make aot KNOWN=perf/fingerprints-aot.json >"$logs/aot" 2>&1 || return
    fi
    make gate >"$logs/gate" 2>&1 || return
    if [ -n "$python311" ]; then
        PYTHON=$python311 sh ci/venv.sh .venv-311 test >"$logs/environment" 2>&1 || return
    fi
}
set -m # a process group of its own, so that all of it can be stopped
beside </dev/null &
others=$!
set +m
# Under `set -e` a trap's own failure becomes the script's status, so nothing in this one may fail.
trap '[ -z "$others" ] || kill -- "-$others" 2>/dev/null || true; rm -rf "$logs"' EXIT

section "tests, newest Python"
describe .venv
make test </dev/null

section "kernels ahead of time, and compiled programs against perf/baseline.json"
status=0
wait "$others" || status=$?
others=
if [ $status -ne 0 ]; then
    cat "$logs"/*
    exit $status
fi
if [ -f "$logs/aot" ]; then
    tail -n 3 "$logs/aot"
else
    echo "Kernels are not compiled: no ptxas on PATH (a CUDA toolkit, release 13, has it)."
fi
tail -n 2 "$logs/gate"

if [ -n "$python311" ]; then
    section "a sample of the tests, Python 3.11 with JAX 0.10"
    describe .venv-311
    .venv-311/bin/python -c 'import jax; assert jax.__version__.startswith("0.10."), jax.__version__'
    SUITE=sample make test VENV=.venv-311 </dev/null | whole_time
else
    section "everything"
fi
