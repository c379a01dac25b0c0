#!/usr/bin/env bash
# Makes the Python environment of this repository. `bash scripts/setup_env.sh --help` explains.
set -euo pipefail

usage() {
    cat <<'HELP'
Makes the Python environment that everything in this repository runs in.

    bash scripts/setup_env.sh [--detectron2 auto|installed] [VENV]

VENV is the folder of the virtual environment; .venv in the repository when left out. The first run downloads about
3 GB and takes minutes; a run that finds everything in place takes under a second. It may be interrupted at any time:
run it again and it goes on from what is there. Afterwards:

    source .venv/bin/activate        (or call .venv/bin/python directly)

Options and variables
    --detectron2 auto       (default) keep an official detectron2 that is already in VENV, else install the PyPI
                            distribution that requirements/detectron2.txt names
    --detectron2 installed  use the official detectron2 that you put into VENV; an error when there is none
    PARTBOX_DETECTRON2      the same as --detectron2
    PYTHON                  the Python 3.11 to build on; otherwise the first one on PATH
    PARTBOX_MIN_DISK_GB     free space asked for before the first install: 10, of which 6 stay in use (3 do for a CPU
                            build of torch)

CPU or GPU
    torch comes from wherever your pip is configured to look, and the same versions serve both. To use a CPU build, or
    one for another CUDA, either point pip at an index that has it (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, pip.conf), or
    make VENV yourself, install that build of the pinned version there, and run this script: it keeps it.

Official detectron2
    Run this script once, then in VENV: pip uninstall sal-detectron2, install detectron2 from its source with
    `pip install --no-build-isolation --no-deps <detectron2 source>` (needs a compiler), and run this script with
    --detectron2 installed.

What happened is written to VENV.log, beside VENV.
HELP
}

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
STEPS=6
MARKER=".partbox-building" # in VENV while it is being made; holds VENV's path
STAMP=".partbox-stamp"     # in VENV once it is complete; holds what it was made from

say() { printf '%s\n' "$*"; }
die() {
    printf 'setup_env.sh: %s\n' "$*" >&2
    exit 1
}

parse_arguments() {
    VENV="" DETECTRON2="${PARTBOX_DETECTRON2:-auto}"
    while (($#)); do
        case "$1" in
            -h | --help) usage && exit 0 ;;
            --detectron2) DETECTRON2="${2:-}" && shift $(($# > 1)) ;;
            --detectron2=*) DETECTRON2="${1#*=}" ;;
            -*) die "unknown option $1; --help lists them." ;;
            *) [[ -z $VENV ]] || die "more than one folder given ($VENV, $1); --help tells the usage."
                VENV="$1" ;;
        esac
        shift
    done
    [[ $DETECTRON2 == auto || $DETECTRON2 == installed ]] ||
        die "--detectron2 (PARTBOX_DETECTRON2) is 'auto' or 'installed', not '$DETECTRON2'."
    VENV="$(realpath -m -- "${VENV:-$REPO/.venv}")"
    LOG="$VENV.log"
}

# --- is there anything to do? ---------------------------------------------------------------------------------------

# What a complete environment was made from; any change of it makes the next run look again.
fingerprint() {
    local inputs
    inputs="$(cd "$REPO" && sha256sum requirements/*.txt setup.py pyproject.toml scripts/setup_env.sh scripts/drop_damaged.py)"
    say "inputs $(sha256sum <<<"$inputs" | cut -d' ' -f1)"
    say "repo $REPO"
    say "venv $VENV"
    say "python $("$VENV/bin/python" -I -c 'import sys; print(sys.version.split()[0], sys.base_prefix)')"
}

is_complete() {
    local name
    [[ -f $VENV/$STAMP && ! -e $VENV/$MARKER && -x $VENV/bin/python ]] || return 1
    [[ "$(fingerprint 2>/dev/null)" == "$(<"$VENV/$STAMP")" ]] || return 1
    for name in torch torchvision timm partbox; do has_distribution "$name" || return 1; done # taken out by hand?
    has_official_detectron2 || { [[ $DETECTRON2 == auto ]] && has_distribution sal_detectron2; }
}

# --- what must be there before we begin -----------------------------------------------------------------------------

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

check_python_override() {
    [[ -z ${PYTHON:-} ]] && return
    local version
    version="$(python_version "$PYTHON")" || die "PYTHON=$PYTHON does not run; set it to a Python 3.11 or unset it."
    [[ $version == 3.11 ]] || die "Python 3.11 is required and PYTHON=$PYTHON is $version; set it to a Python 3.11 or unset it."
}

# Sets BASE_PYTHON. A candidate may be a shim that does not run, or a python of an activated environment (even of VENV
# itself, which may have to be remade): what counts is the interpreter behind it.
find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        candidate="$PYTHON"
    else
        while read -r candidate; do
            [[ "$(python_version "$candidate")" == 3.11 ]] && break
        done < <(type -ap python3.11 python3 python)
    fi
    [[ -n $candidate ]] ||
        die "Python 3.11 is required and none is on PATH; install it (for example apt install python3.11 python3.11-venv) or set PYTHON to one."
    BASE_PYTHON="$("$candidate" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)')"
    "$BASE_PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$BASE_PYTHON cannot make virtual environments; install its venv module (for example apt install python3.11-venv) or set PYTHON to another Python 3.11."
}

check_tools() {
    local tool
    for tool in flock sha256sum realpath df; do
        command -v "$tool" >/dev/null || die "the command '$tool' is missing; install util-linux and coreutils (this script is for Linux)."
    done
}

check_disk() {
    has_distribution torch && return # the big part is there already
    local needed="${PARTBOX_MIN_DISK_GB:-10}" folder="$VENV" free
    [[ $needed =~ ^[0-9]+$ ]] || die "PARTBOX_MIN_DISK_GB must be a whole number, not '$needed'."
    while [[ ! -d $folder ]]; do folder="$(dirname "$folder")"; done
    free="$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1048576)}')"
    ((free >= needed)) ||
        die "$needed GB of free disk are needed and $folder has $free; free some space, or name a folder on a larger disk: bash scripts/setup_env.sh VENV."
}

# Two runs on one folder would tear it apart. The lock is inherited by pip: when this script is killed and pip lives on,
# the next run waits for that pip.
take_lock() {
    { mkdir -p "$(dirname "$VENV")" && : >>"$VENV.lock"; } 2>/dev/null ||
        die "cannot write to $(dirname "$VENV"); choose a folder that you may write to: bash scripts/setup_env.sh VENV."
    exec 9>>"$VENV.lock"
    flock -n 9 && return
    say "Another setup_env.sh (or a pip that it left running) is at work on $VENV; waiting for it. See $LOG"
    flock 9
}

# --- running a step -------------------------------------------------------------------------------------------------

# In the background and waited for, so that Ctrl-C and kill reach us at once and not when pip is through.
run_logged() {
    LOG_START=$(($(wc -l <"$LOG") + 1))
    "$@" >>"$LOG" 2>&1 </dev/null &
    CHILD=$!
    local status=0
    wait "$CHILD" || status=$?
    CHILD=""
    return "$status"
}

step() { # step NUMBER TEXT FUNCTION: says what is done and how long it took; FUNCTION dies when it fails
    local start=$SECONDS
    printf '[%s/%s] %-52s' "$1" "$STEPS" "$2"
    printf '=== step %s: %s\n' "$1" "$2" >>"$LOG"
    NOTE=""
    "$3"
    printf '%4d s%s\n' $((SECONDS - start)) "${NOTE:+  ($NOTE)}"
}

interrupted() {
    trap - INT TERM HUP
    [[ -z ${CHILD:-} ]] || { kill "$CHILD" 2>/dev/null || true; wait "$CHILD" 2>/dev/null || true; }
    printf '\nInterrupted. Run the same command again: it goes on from what is there.\n' >&2
    exit 130
}

fail() { # ends the step's line, then the one sentence
    printf '  failed\n'
    die "$*"
}

logged_since() { tail -n "+$LOG_START" "$LOG" | grep -qiE -- "$1"; }

# One sentence for a pip that failed, after what it wrote.
fail_pip() {
    if logged_since 'No space left on device|Errno 28|Disk quota exceeded'; then
        fail "the disk is full while $1; free some space (about 10 GB under $VENV, of which 6 stay in use, and 3 for pip's cache) and run again. Log: $LOG"
    elif logged_since 'HASH(ES)? .*MISMATCH|DO NOT MATCH THE HASHES'; then
        fail "a download does not match its pinned hash while $1; do not use it, and see in the log where pip found it: $LOG"
    elif logged_since 'NewConnectionError|Max retries exceeded|Connection (refused|reset|broken|aborted)|(Connect|Read) ?time(d )?out|Temporary failure in name resolution|Name or service not known|SSLError|CERTIFICATE_VERIFY|ProxyError|IncompleteRead'; then
        fail "the package index cannot be reached while $1; check the network, the proxy and 'pip config list', and run again (what is there is kept). Log: $LOG"
    elif logged_since 'No matching distribution found|Could not find a version|ResolutionImpossible'; then
        fail "the package index does not have what is pinned, or could not be reached, while $1; check the network and 'pip config list' for an incomplete mirror, and run again. Log: $LOG"
    fi
    fail "pip failed while $1; the end of the log tells why: tail -n 30 '$LOG'"
}

# User's pip configuration (index, proxy, cache, constraints) holds; only what would point pip away from VENV is undone.
# Downloads are unpacked beside VENV, on the disk that was checked: /tmp is often small.
pip_install() {
    run_logged env -u PYTHONPATH -u PYTHONHOME -u PIP_TARGET -u PIP_PREFIX TMPDIR="$VENV/.tmp" PIP_USER=0 \
        PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off \
        "$VENV/bin/python" -m pip install --no-compile "$@"
}

# --- the steps ------------------------------------------------------------------------------------------------------

site_packages() { say "$VENV/lib/python3.11/site-packages"; }

has_distribution() { # has_distribution NAME [VERSION]; NAME as in the names of metadata folders
    compgen -G "$(site_packages)/$1-${2:-*}.dist-info/METADATA" >/dev/null
}

has_official_detectron2() {
    has_distribution detectron2 || compgen -G "$(site_packages)/detectron2*.egg-link" >/dev/null ||
        compgen -G "$(site_packages)/detectron2-*.egg*" >/dev/null
}

venv_works() {
    [[ "$(python_version "$VENV/bin/python")" == 3.11 ]] && "$VENV/bin/python" -I -m pip --version >/dev/null 2>&1
}

# The path that VENV was made under, when this script made it: scripts in bin/ hold it, so a moved folder is of no use.
made_under() {
    if [[ -f $VENV/$STAMP ]]; then
        sed -n 's/^venv //p' "$VENV/$STAMP"
    elif [[ -f $VENV/$MARKER ]]; then
        cat "$VENV/$MARKER"
    fi
}

# From here to the end VENV is marked as half-made. The marker comes before the stamp goes: at every moment one of them
# says that the folder is ours.
mark_building() {
    printf '%s\n' "$VENV" >"$VENV.marker"
    mv -f "$VENV.marker" "$VENV/$MARKER" # in one go: a folder with other things in it and no marker is not ours
    rm -f "$VENV/$STAMP"
    rm -rf "$VENV/.tmp"
    mkdir "$VENV/.tmp"
}

create_venv() {
    mark_building
    find "$VENV" -mindepth 1 -maxdepth 1 ! -name "$MARKER" ! -name .tmp -exec rm -rf {} +
    run_logged "$BASE_PYTHON" -m venv "$VENV" || fail "$BASE_PYTHON could not make a virtual environment; see $LOG"
}

# Packages that an interrupted run left half-installed are forgotten here and put back by the steps that follow.
drop_damaged() {
    local dropped
    dropped="$("$BASE_PYTHON" -I "$REPO/scripts/drop_damaged.py" "$(site_packages)")" || return
    [[ -n $dropped ]] || return 0
    say "$dropped" >>"$LOG"
    NOTE="$(wc -l <<<"$dropped") half-installed packages will be put back"
}

step_venv() {
    local origin interrupted=false
    origin="$(made_under)"
    [[ ! -e $VENV/$MARKER ]] || interrupted=true
    if [[ ! -d $VENV ]] || [[ -z "$(ls -A "$VENV")" ]]; then
        mkdir -p "$VENV" && create_venv
        return
    fi
    mark_building
    if $interrupted && ! drop_damaged; then
        create_venv
    elif [[ -n $origin ]] && { [[ $origin != "$VENV" ]] || ! has_distribution pip || ! venv_works; }; then
        NOTE="what was there was of no use" && create_venv
    fi
}

pinned() { sed -n "s/^$1==\([^ ]*\).*/\1/p" "$REPO/requirements/$2"; } # pinned NAME FILE: the version

# setuptools and wheel come first and alone: they build what has no wheel, and are the first word with the index.
step_build_tools() {
    local name version missing=()
    for name in setuptools wheel packaging; do
        version="$(pinned "$name" base.txt)"
        has_distribution "$name" "$version" || missing+=("$name==$version")
    done
    ((${#missing[@]} == 0)) || pip_install "${missing[@]}" || fail_pip "installing setuptools"
}

step_packages() {
    pip_install --no-build-isolation -r "$REPO/requirements/base.txt" -r "$REPO/requirements/dev.txt" ||
        fail_pip "installing the packages of requirements/base.txt"
    pip_install --no-deps -r "$REPO/requirements/no_dependencies.txt" ||
        fail_pip "installing the packages of requirements/no_dependencies.txt"
}

# The distribution is for another Python, so it goes in with --target, which replaces nothing without --upgrade.
step_detectron2() {
    if has_official_detectron2; then
        NOTE="the official one that was there is kept"
        return
    fi
    local version
    version="$(pinned sal-detectron2 detectron2.txt)"
    has_distribution sal_detectron2 "$version" && return
    pip_install --no-deps --only-binary=:all: --python-version 3.10 --upgrade --target "$(site_packages)" \
        -r "$REPO/requirements/detectron2.txt" || fail_pip "installing detectron2 (requirements/detectron2.txt)"
}

step_partbox() {
    pip_install --no-deps --no-build-isolation -e "$REPO" || fail_pip "installing partbox itself"
    # What pip leaves is asked after the folders of sys.path, and in the folder above a clone "partbox" is that clone.
    say "$REPO/projects" >"$(site_packages)/partbox-source.pth"
}

# -I: neither the current folder nor PYTHONPATH may stand in for what is not installed. One process for all: importing
# torch takes seconds. Each name is written before its import, so the last one in the log is the one that failed.
step_smoke() {
    local code='import importlib, sys
for name in sys.argv[1:]:
    print("importing", name, flush=True)
    importlib.import_module(name)'
    run_logged "$VENV/bin/python" -I -W ignore -c "$code" torch torchvision timm detectron2 detectron2.projects.deeplab \
        imagecorruptions partbox maskdino_ext && return
    local module error
    module="$(sed -n 's/^importing //p' "$LOG" | tail -n 1)" error="$(tail -n 1 "$LOG")"
    case "$module" in
        detectron2*) fail "$module cannot be imported ($error); see $LOG, or use an official detectron2 (--help tells how)." ;;
        *) fail "$module cannot be imported ($error); see $LOG" ;;
    esac
}

write_stamp() {
    rm -rf "$VENV/.tmp"
    fingerprint >"$VENV/$STAMP.new"
    mv -f "$VENV/$STAMP.new" "$VENV/$STAMP"
    rm -f "$VENV/$MARKER"
}

check_folder() {
    [[ ! -e $VENV || -d $VENV ]] || die "$VENV is not a folder; choose another: bash scripts/setup_env.sh VENV."
    [[ -d $VENV && -n "$(ls -A "$VENV")" && -z "$(made_under)" ]] || return 0
    [[ -f $VENV/pyvenv.cfg ]] ||
        die "$VENV is there and is not a virtual environment; choose another folder: bash scripts/setup_env.sh VENV."
    venv_works || die "$VENV is a virtual environment without a working Python 3.11 and pip; delete it or choose another folder: bash scripts/setup_env.sh VENV."
}

main() {
    parse_arguments "$@"
    trap interrupted INT TERM HUP
    check_tools
    check_python_override
    if is_complete; then
        say "The environment in $VENV is complete."
        return
    fi
    find_python
    check_folder
    [[ $DETECTRON2 == auto ]] || has_official_detectron2 ||
        die "there is no official detectron2 in $VENV; install it there (--help tells how), or leave out --detectron2 installed."
    check_disk
    take_lock
    if is_complete; then # made while we waited
        say "The environment in $VENV is complete."
        return
    fi
    : >"$LOG"
    say "Making the Python environment in $VENV (the first time minutes and about 3 GB of downloads). Log: $LOG"
    local start=$SECONDS
    step 1 "virtual environment" step_venv
    step 2 "setuptools and wheel" step_build_tools
    step 3 "torch and the other packages" step_packages
    step 4 "detectron2" step_detectron2
    step 5 "partbox and maskdino_ext" step_partbox
    step 6 "checking that everything can be imported" step_smoke
    write_stamp
    say "Done in $((SECONDS - start)) s. To use it: source $VENV/bin/activate"
}

main "$@"
