# Sourced by ops/demo, ops/test, ops/soak and .ci/run: a virtual environment beside the project, with the
# project and what it needs in it. Made and filled only when something is missing or has changed.
#
#   PYTHON     the interpreter to make it with (default: the first Python 3.11 or newer that runs)
#   CDC_VENV   another place for it, such as for a checkout that is read-only

project=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
environment=${CDC_VENV:-$project/.venv}

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    say "${0##*/}: $*"
    exit 2
}

# ensure_environment EXTRA: afterwards "$environment/bin" has everything of that extra in pyproject.toml.
ensure_environment() {
    local extra=$1 stamp wanted
    stamp=$environment/.installed-$extra
    # Where the project lies is a part of it: the installation points there.
    wanted="$(cat "$project/pyproject.toml" "$project/ops/compile.py" | cksum) $project"
    if ! _is_done; then
        _one_at_a_time
        _is_done || _make_environment
        exec 9<&-
    fi
}

_is_done() {
    _new_enough "$environment/bin/python" && [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && ! _sources_are_newer
}

# By their times, as cdc/log/compiled.py judges what it may use.
_sources_are_newer() {
    [[ -n $(find "$project/cdc" "$project/connectors" \( -name '*.pyx' -o -name '*.pxd' \) -newer "$stamp") ]]
}

_make_environment() {
    _can_install || _create
    say "installing the project with its extra '$extra' into $environment (once)"
    local log=$environment/install-$extra.log
    if ! "$environment/bin/python" -m pip install --disable-pip-version-check --no-input --quiet \
        --editable "$project[$extra]" >"$log" 2>&1 </dev/null; then
        { grep 'ERROR: ' "$log" || tail -n 3 "$log"; } | head -n 3 >&2
        fail "pip could not install what the project needs; is there a network? All that pip said: $log"
    fi
    printf '%s\n' "$wanted" >"$stamp"
}

# Made by a Python that is still there, and finished.
_can_install() {
    _new_enough "$environment/bin/python" && "$environment/bin/python" -c 'import pip' >/dev/null 2>&1
}

_create() {
    local python
    python=$(_find_python) || exit 2
    say "making the virtual environment $environment with $("$python" --version 2>&1)"
    "$python" -m venv --clear "$environment" >&2 ||
        fail "cannot make the virtual environment $environment; is the folder writable? Set CDC_VENV for another place"
}

# The first that really runs (a pyenv shim may be there and fail), is new enough and can make environments.
_find_python() {
    local candidate without_venv=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        _new_enough "$candidate" || continue
        if "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    [[ -z $without_venv ]] ||
        fail "$without_venv has no venv module; on Debian or Ubuntu: apt-get install $(_venv_package "$without_venv")"
    [[ -z ${PYTHON:-} ]] || fail "PYTHON is $PYTHON, which is not a Python 3.11 or newer that runs"
    fail "no Python 3.11 or newer found; install one, or set PYTHON to its path"
}

_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

_venv_package() {
    "$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
}

# Two commands started together must not both fill the environment. The lock goes with descriptor 9.
_one_at_a_time() {
    exec 9<"$project"
    ! command -v flock >/dev/null || flock 9
}
