#!/usr/bin/env bash
# Environment, lint, types, tests: what a change must pass.
#
#     bash scripts/test.sh                        everything but the tests marked slow
#     bash scripts/test.sh tests/attacks -k pgd   arguments go to pytest
#     bash scripts/test.sh -m slow                the slow ones
#
# PARTBOX_VENV: the environment's folder (.venv). OMP_NUM_THREADS: threads for each test process (1).
set -euo pipefail

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
check "pytest" "$VENV/bin/python" -m pytest "$@"

if ((${#FAILED[@]})); then
    printf '\nFAILED: %s. Wall time %d min %d s.\n' "$(IFS=,; echo "${FAILED[*]}")" $((SECONDS / 60)) $((SECONDS % 60))
    exit 1
fi
printf '\nAll checks passed. Wall time %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
