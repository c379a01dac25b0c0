#!/usr/bin/env bash
# The comparison on real photographs: plain classifier and part model, several seeds each, equal passes, one table.
#
#     bash scripts/measure_animals.sh /path/to/pascal_part_animals                   normal and part_box, seeds 1 2 3
#     MODELS="normal part_pooling" SEEDS="1 2" bash scripts/measure_animals.sh INPUT SOLVER.MAX_ITER 3600
#
# INPUT: folder with images/ and trainval.json. KEY VALUE pairs go to every training. As many trainings at once as there
# are cores, one thread each, so that every run has the same arithmetic. An interrupted measurement continues where it was.
# PARTBOX_VENV: the environment's folder (.venv). PARTBOX_OUTPUT: where the runs go (output/animals).
set -euo pipefail

if [[ $# -lt 1 || "$1" == "-h" || "$1" == "--help" ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit $(($# < 1 ? 2 : 0))
fi

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
INPUT="$(realpath -- "$1")"
shift
cd "$REPO"
VENV="$(realpath -m -- "${PARTBOX_VENV:-.venv}")"
OUTPUT="${PARTBOX_OUTPUT:-output/animals}"
read -r -a MODEL_LIST <<<"${MODELS:-normal part_box}"
read -r -a SEED_LIST <<<"${SEEDS:-1 2 3}"

bash scripts/setup_env.sh "$VENV"
CORES="$(env -u OMP_NUM_THREADS nproc)" # nproc would answer with the number of threads below
export OMP_NUM_THREADS=1 PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}" DETECTRON2_DATASETS="${DETECTRON2_DATASETS:-datasets_root}"
"$VENV/bin/python" datasets/prepare_pascal_part_animals.py --input "$INPUT" --output "$DETECTRON2_DATASETS/pascal_part_animals"

RUNS=()
for seed in "${SEED_LIST[@]}"; do
    for model in "${MODEL_LIST[@]}"; do
        RUNS+=("$model-seed$seed")
    done
done
mkdir -p "$OUTPUT"
printf '%s\n' "${RUNS[@]}" | xargs -P "$CORES" -I{} bash -c '
    run="$1" output="$2" python="$3"
    shift 3
    echo "start $run; log: $output/$run.out"
    "$python" tools/train_net.py --config-file "configs/pascal_part_animals/${run%-seed*}.yaml" --resume \
        SEED "${run##*-seed}" OUTPUT_DIR "$output/$run" "$@" >"$output/$run.out" 2>&1 ||
        { echo "FAILED: $run; see $output/$run.out" >&2; exit 255; }
    echo "done $run"' _ {} "$OUTPUT" "$VENV/bin/python" "$@"

"$VENV/bin/python" tools/compare_runs.py "${RUNS[@]/#/$OUTPUT/}" --group-seeds --output "$OUTPUT/table.md"
