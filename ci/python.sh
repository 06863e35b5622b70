#!/bin/sh
# Print the path of a usable interpreter: `sh ci/python.sh [VERSION...]`, first version first.
#
# Without arguments: the newest CPython for which every dependency has wheels, else any newer one.
# A candidate counts only after it has run: pyenv's shims are on PATH even when they start nothing,
# and some distributions ship Python without venv or ensurepip.
set -eu

usable() { # usable COMMAND VERSION: print the interpreter's own path if it can build an environment
    "$1" -I -c '
import sys, sysconfig
import ensurepip, ssl, venv
version = "%d.%d" % sys.version_info[:2]
wanted = sys.argv[1]
good = (
    sys.implementation.name == "cpython"
    and sys.version_info[3] == "final"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and (version == wanted if wanted != "any" else sys.version_info >= (3, 11))
)
base = getattr(sys, "_base_executable", None) or sys.executable
print(base) if good else sys.exit(1)
' "$2" </dev/null 2>/dev/null
}

folders() { # where interpreters are kept: PATH, then the version managers, then the usual places
    printf '%s\n' "$PATH" | tr ':' '\n'
    for folder in "${PYENV_ROOT:-/nonexistent}"/versions/*/bin "${HOME:-/nonexistent}"/.pyenv/versions/*/bin \
        "${HOME:-/nonexistent}"/.local/share/uv/python/*/bin /usr/local/bin /usr/bin /opt/homebrew/bin; do
        printf '%s\n' "$folder"
    done
}

find_version() { # find_version VERSION NAME...
    version=$1
    shift
    folders | while IFS= read -r folder; do
        for name in "$@"; do
            if [ -x "$folder/$name" ] && usable "$folder/$name" "$version"; then
                exit 0
            fi
        done
    done
}

search() { # search VERSION...
    for wanted in "$@"; do
        if [ "$wanted" = any ]; then
            found=$(find_version any python3 python)
        else
            found=$(find_version "$wanted" "python$wanted" python3 python)
        fi
        if [ -n "$found" ]; then
            printf '%s\n' "$found"
            return 0
        fi
    done
    return 1
}

if [ $# -gt 0 ]; then
    search "$@"
else
    search 3.14 3.13 3.12 3.11 any || {
        echo "No usable CPython >= 3.11 found (it needs its venv, ensurepip and ssl modules)." >&2
        echo "Install one, or name it: make PYTHON=/path/to/python ..." >&2
        exit 1
    }
fi
