#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lint, types, layer rules, the gate of compiled programs, and
# the suite on the newest Python and on the oldest supported pair, Python 3.11 with JAX 0.10. The last line is pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_NO_INPUT=1
unset PYTHON VENV MAKEFLAGS MAKELEVEL PYTEST_ADDOPTS || true

section() { printf '\n== %s\n' "$*"; }
describe() { # describe VENV
    "$1/bin/python" -c 'import sys, jax; print("Python", sys.version.split()[0], "with JAX", jax.__version__)'
}

section "format, lint, types, layers"
make lint </dev/null

sh ci/venv.sh .venv test
section "compiled programs against perf/baseline.json"
make gate </dev/null

section "tests, newest Python"
describe .venv
make test </dev/null

if [ "$(.venv/bin/python -c 'import sys; print(sys.version_info[:2] == (3, 11))')" = True ]; then
    exit 0 # the leg below has just run
fi
if python311=$(sh ci/python.sh 3.11); then
    section "tests, Python 3.11 with JAX 0.10"
    PYTHON=$python311 sh ci/venv.sh .venv-311 test
    describe .venv-311
    .venv-311/bin/python -c 'import jax; assert jax.__version__.startswith("0.10."), jax.__version__'
    SUITE=quick make test VENV=.venv-311 </dev/null
fi
