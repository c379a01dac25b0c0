#!/usr/bin/env bash
# The main job, from nothing to a table: environment, example data, two models trained adversarially with equal
# budgets, both attacked.
#
#     bash scripts/run_example.sh                    about 12 minutes on 2 CPU cores after the environment
#     bash scripts/run_example.sh SOLVER.MAX_ITER 20 a quick look; KEY VALUE pairs go to the training of both models
#
# PARTBOX_VENV: the environment's folder (.venv). PARTBOX_OUTPUT: where the results go (output/example).
# An interrupted run continues where it was; delete the output folder to start anew.
set -euo pipefail

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "$REPO"

if [[ "${1:-}" == "-h" || "${1:-}" == "--help" ]]; then
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi

VENV="$(realpath -m -- "${PARTBOX_VENV:-.venv}")"
OUTPUT="${PARTBOX_OUTPUT:-output/example}"
MODELS=(normal part_box)

bash scripts/setup_env.sh "$VENV"
export PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}"
START=$SECONDS

for model in "${MODELS[@]}"; do
    printf '\n--- %s: adversarial training, then the attacks (after %d s)\n' "$model" $((SECONDS - START))
    "$VENV/bin/python" tools/train_net.py --config-file "configs/example/$model.yaml" --resume \
        OUTPUT_DIR "$OUTPUT/$model" "$@"
done

printf '\n--- Both models, equal training budget\n\n'
"$VENV/bin/python" tools/compare_runs.py "${MODELS[@]/#/$OUTPUT/}" --output "$OUTPUT/table.md"
printf '\nTime after the environment: %d min %d s. Of each model, in %s/<model>:\n' \
    $(((SECONDS - START) / 60)) $(((SECONDS - START) % 60)) "$OUTPUT"
printf '  results.json         accuracies, threat models, seeds, versions, configuration\n'
printf '  learning_curves.png  losses, clean and robust validation accuracy\n'
printf '  examples.png         clean and attacked images with the parts found\n'
