#!/bin/sh
# Compile every kernel for GPUs and TPUs that this machine need not have, and hold registers, spills, bundles and
# temporary memory against perf/baseline-aot.json: `sh ci/aot.sh [TARGET...]`. AOT_GATE=--update writes that file
# and perf/fingerprints-aot.json, by which `--known` leaves out what these compilers have compiled before.
#
# Two environments of their own (libtpu and the CUDA plugin do not share a process), made once and stamped. Needs a CUDA
# toolkit's ptxas on PATH.
set -eu

cd "$(dirname "$0")/.."
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH || true
jax=0.12.0.1
command -v ptxas >/dev/null || {
    echo "ptxas is not on PATH: install a CUDA toolkit (release 13)." >&2
    exit 1
}

environment() { # environment VENV REQUIREMENT...
    venv=$1
    shift
    state="$*"
    if [ -f "$venv/.ready" ] && [ "$(cat "$venv/.ready")" = "$state" ] && "$venv/bin/python" -c 'import jax' 2>/dev/null; then
        return
    fi
    echo "Making $venv; this is done once." >&2
    "${PYTHON:-$(sh ci/python.sh 3.13 3.12 3.14)}" -I -m venv --clear "$venv"
    PIP_USER=0 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" </dev/null
    printf '%s\n' "$state" >"$venv/.ready"
}

environment .venv-aot-cuda "jax==$jax" jaxtyping triton "jax-cuda13-plugin==$jax" "jax-cuda13-pjrt==$jax"
environment .venv-aot-tpu "jax==$jax" jaxtyping "libtpu==0.0.50.*"

status=0
case " $* " in
*" --known "*) ;; # a quick look at what has changed, in which no batch is sharded
*) PYTHONPATH=. .venv-aot-tpu/bin/python -W ignore perf/aot/sharded.py || status=1 ;;
esac
# shellcheck disable=SC2086 # none or some options
CUDA_PYTHON=.venv-aot-cuda/bin/python TPU_PYTHON=.venv-aot-tpu/bin/python \
    .venv-aot-tpu/bin/python perf/aot/table.py ${AOT_GATE:-} "$@" || status=1
exit $status
