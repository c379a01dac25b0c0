#!/usr/bin/env bash
# The documentation site, from docs/, the READMEs and the docstrings. Warnings are errors; nothing is fetched.
#
#     bash scripts/build_docs.sh                  into build/docs; open build/docs/index.html
#     bash scripts/build_docs.sh /tmp/site        into another folder
#
# OUTPUT is replaced whole when everything is built, and stays as it was when something fails. A folder that holds
# anything but an earlier site is refused. PARTBOX_VENV: the environment's folder (.venv).
set -euo pipefail

if [[ "${1:-}" == "-h" || "${1:-}" == "--help" || $# -gt 1 ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit $(($# > 1 ? 2 : 0))
fi

OUTPUT="$(realpath -m -- "${1:-$(dirname "${BASH_SOURCE[0]}")/../build/docs}")"
REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$(realpath -m -- "${PARTBOX_VENV:-$REPO/.venv}")"
[[ -x "$VENV/bin/python" ]] || { echo "error: no environment in $VENV: bash scripts/setup_env.sh makes it" >&2; exit 1; }
if [[ -e "$OUTPUT" && ! -f "$OUTPUT/.buildinfo" && -n "$(ls -A -- "$OUTPUT")" ]]; then
    echo "error: $OUTPUT is no site that this script has built: name another folder, or delete it" >&2
    exit 1
fi

mkdir -p "$(dirname "$OUTPUT")"
BUILT="$(mktemp -d -p "$(dirname "$OUTPUT")" ".docs.XXXXXX")"
trap 'rm -rf "$BUILT"' EXIT
cd "$REPO"
export PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}" PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$VENV/bin/python" -m sphinx -q -W --keep-going -E -b html -c docs -d "$BUILT/doctrees" . "$BUILT/site"
chmod 755 "$BUILT/site"
rm -rf "$OUTPUT"
mv "$BUILT/site" "$OUTPUT"
echo "$OUTPUT/index.html"
