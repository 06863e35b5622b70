#!/bin/sh
# Make sure that the environment VENV holds this package with EXTRA: `sh ci/venv.sh VENV EXTRA`.
#
# A stamp in the environment records what was installed, so that a second call returns at once. It is
# out of date when pyproject.toml, the checkout's folder or the interpreter has changed.
set -eu

venv=$1
extra=$2
here=$(dirname "$0")
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH || true

healthy() { # the environment starts and can install
    "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1
}

base() { # the interpreter that the environment was built from
    "$venv/bin/python" -I -c 'import os, sys; print(os.path.realpath(sys._base_executable))' 2>/dev/null || true
}

stamp="$venv/.ready-$extra"
state="$(pwd) $(cksum <pyproject.toml)"
wanted=
if [ -n "${PYTHON:-}" ]; then
    wanted=$("$PYTHON" -I -c 'import os, sys; print(os.path.realpath(sys._base_executable))' 2>/dev/null) || {
        echo "PYTHON=$PYTHON does not run." >&2
        exit 1
    }
fi

if healthy && { [ -z "$wanted" ] || [ "$wanted" = "$(base)" ]; }; then
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
        exit 0
    fi
else
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        echo "$venv exists and is no virtual environment: name another one with VENV=..." >&2
        exit 1
    fi
    python=${PYTHON:-$(sh "$here/python.sh")}
    "$python" -I -m venv --clear "$venv"
fi

version=$("$venv/bin/python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
echo "Installing softjax-pallas[$extra] into $venv (Python $version); this is done once." >&2
# A user-wide pip configuration may ask for --user, which an environment cannot serve.
PIP_USER=0 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -e ".[$extra]" </dev/null
printf '%s\n' "$state" >"$stamp"
