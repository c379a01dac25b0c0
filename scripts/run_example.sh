#!/usr/bin/env bash
# The main job, from nothing to a table and a page with pictures: environment, example data, two models trained
# adversarially with equal budgets, both attacked.
#
#     bash scripts/run_example.sh                    8 to 15 minutes on 2 CPU cores after the environment
#     PARTBOX_OUTPUT=output/quick bash scripts/run_example.sh SOLVER.MAX_ITER 20
#                                                    a quick look; KEY VALUE pairs go to the training of both models
#
# PARTBOX_VENV: the environment's folder (.venv). PARTBOX_OUTPUT: where the results go (output/example).
# An interrupted run continues where it was; delete the output folder to start anew.
set -euo pipefail

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$REPO"

if [[ "${1:-}" == "-h" || "${1:-}" == "--help" ]]; then
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi

VENV="$(realpath -m -- "${PARTBOX_VENV:-.venv}")"
OUTPUT="${PARTBOX_OUTPUT:-output/example}"
MODELS=(normal part_box)

bash scripts/setup_env.sh "$VENV"
export PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}"
START=$SECONDS

# Both models at once, each on half of the cores: networks this small gain nothing from more threads.
CORES="$(env -u OMP_NUM_THREADS nproc)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((CORES > 1 ? CORES / 2 : 1))}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
mkdir -p "$OUTPUT"
"$VENV/bin/python" tools/make_example_data.py --output "${DETECTRON2_DATASETS:-datasets_root}/example" --workers "$CORES"

train() { # train MODEL KEY VALUE...: progress lines carry the model's name
    local model="$1"
    shift
    "$VENV/bin/python" -u tools/train_net.py --config-file "configs/example/$model.yaml" --resume \
        OUTPUT_DIR "$OUTPUT/$model" "$@" > >(sed -u "s/^/[$model] /") 2>&1 &
}

printf '\n--- Adversarial training, then the attacks\n'
JOBS=()
trap 'kill "${JOBS[@]}" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
for model in "${MODELS[@]}"; do
    train "$model" "$@"
    JOBS+=($!)
done
for job in "${JOBS[@]}"; do
    wait "$job" || { printf 'FAILED: the reason is in the last lines above and in %s/<model>/log.txt\n' "$OUTPUT" >&2; exit 1; }
done
trap - EXIT INT TERM

printf '\n--- Both models, equal training budget\n\n'
"$VENV/bin/python" tools/compare_runs.py "${MODELS[@]/#/$OUTPUT/}" --output "$OUTPUT/table.md"
"$VENV/bin/python" tools/make_report.py "${MODELS[@]/#/$OUTPUT/}" --output "$OUTPUT/report.html"
printf '\nTime after the environment: %d min %d s. Of each model, in %s/<model>:\n' \
    $(((SECONDS - START) / 60)) $(((SECONDS - START) % 60)) "$OUTPUT"
printf '  results.json         accuracies, threat models, seeds, versions, configuration\n'
printf '  learning_curves.png  losses, clean and robust validation accuracy\n'
printf '  examples.png         clean and attacked images with the parts found (all that are kept: examples/)\n'
