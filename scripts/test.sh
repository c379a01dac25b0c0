#!/usr/bin/env bash
# Environment, lint, types, tests: what a change must pass.
#
#     bash scripts/test.sh                        everything but the tests marked slow
#     bash scripts/test.sh tests/attacks -k pgd   arguments go to pytest
#     bash scripts/test.sh -m slow                the slow ones
#
# PARTBOX_VENV: the environment's folder (.venv). PARTBOX_TEST_PROCESSES: test files that run at once (the cores, at most
# 4; 0 runs everything in one process, for a debugger). OMP_NUM_THREADS: threads for each of them (1).
set -euo pipefail

if [[ "${1:-}" == "-h" || "${1:-}" == "--help" ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$REPO"
VENV="$(realpath -m -- "${PARTBOX_VENV:-.venv}")"

# Test networks are tiny: on a busy machine OpenMP threads that wait for each other make them 12 to 25 times slower.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MKL_NUM_THREADS="${MKL_NUM_THREADS:-$OMP_NUM_THREADS}" OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-$OMP_NUM_THREADS}"
export MPLBACKEND=Agg PYTHONUNBUFFERED=1

FAILED=()
check() { # check NAME COMMAND...: a failure is remembered and the other checks still run
    local name="$1" start=$SECONDS status=0
    shift
    printf '\n--- %s\n' "$name"
    "$@" || status=$?
    printf -- '--- %s: %s after %d s\n' "$name" "$([[ $status == 0 ]] && echo passed || echo "FAILED ($status)")" $((SECONDS - start))
    [[ $status == 0 ]] || FAILED+=("$name")
}

bash scripts/setup_env.sh "$VENV"
check "ruff check" "$VENV/bin/ruff" check .
check "ruff format" "$VENV/bin/ruff" format --check --output-format concise .
check "mypy" "$VENV/bin/mypy"
CORES="$(env -u OMP_NUM_THREADS nproc)" # nproc would answer with the number of threads
PROCESSES="${PARTBOX_TEST_PROCESSES:-$((CORES < 4 ? CORES : 4))}"
check "pytest" "$VENV/bin/python" -m pytest -n "$PROCESSES" --dist loadfile --no-loadscope-reorder "$@"

if ((${#FAILED[@]})); then
    printf '\nFAILED: %s. Wall time %d min %d s.\n' "$(IFS=,; echo "${FAILED[*]}")" $((SECONDS / 60)) $((SECONDS % 60))
    exit 1
fi
printf '\nAll checks passed. Wall time %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
