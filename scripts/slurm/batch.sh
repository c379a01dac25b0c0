# shellcheck shell=bash
# What the batch scripts share; they source it inside a job, REPO set. Sets PYTHON, TASK and TASKS, and defines run_step.
#
#     REPO=/path/to/partbox; source "$REPO/scripts/slurm/batch.sh" || exit 2
#     run_step srun "${TASKS[@]}" "${TASK[@]}" tools/train_net.py --resume --config-file ... OUTPUT_DIR ...
#
# train.sbatch, eval.sbatch and sweep.sbatch beside it show it at work; docs/slurm.md says what happens on signals.

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then # not sourced
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    [[ "${1:-}" == "-h" || "${1:-}" == "--help" ]]
    exit
fi

JOB="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
JOB="${JOB:-$SLURM_JOB_ID}"
printf '\n--- start %d of job %s on %s, %s\n' $((${SLURM_RESTART_COUNT:-0} + 1)) "$JOB" "${SLURM_JOB_NODELIST:-?}" "$(date -Is)"

[[ -f $REPO/tools/train_net.py ]] || {
    echo "FAILED: the repository is not at '$REPO': set PARTBOX_REPO to its folder" >&2
    exit 2
}
SITE="${PARTBOX_SITE:-$REPO/scripts/slurm/site.env}"
ASKED_PYTHON="${PARTBOX_PYTHON:-}" ASKED_STARTS="${PARTBOX_MAX_STARTS:-}" # of the one who submits, before the site's
set -a
# shellcheck disable=SC1090
source "$SITE" || exit 2
[[ -z $ASKED_PYTHON ]] || PARTBOX_PYTHON="$ASKED_PYTHON"
[[ -z $ASKED_STARTS ]] || PARTBOX_MAX_STARTS="$ASKED_STARTS"
# Also where the job itself got only a part of the environment (sbatch --export), its tasks need all of this one.
SLURM_EXPORT_ENV=ALL
PYTHONUNBUFFERED=1
set +a
NOUNSET="$(set +o | grep nounset)"
set +u # what modules and conda are made of uses variables that nobody has set
eval "${PARTBOX_SETUP:-}" || {
    echo "FAILED: PARTBOX_SETUP of $SITE fails on $(hostname): $PARTBOX_SETUP" >&2
    exit 2
}
eval "$NOUNSET"
PYTHON="${PARTBOX_PYTHON:-$REPO/.venv/bin/python}"
command -v "$PYTHON" >/dev/null || {
    echo "FAILED: there is no $PYTHON on $(hostname): set PARTBOX_PYTHON in $SITE, or run scripts/setup_env.sh" >&2
    exit 2
}
# A run that is started through this hears no signal before it can handle it.
TASK=("$PYTHON" -m partbox.engine.slurm.task)
# Works also where partbox is not installed into the environment.
export PYTHONPATH="$REPO/projects:$REPO${PYTHONPATH:+:$PYTHONPATH}"

# CPUs of each task; srun has not passed the job's on to its tasks by itself since Slurm 22.05.
CPUS="${SLURM_CPUS_PER_TASK:-}"
[[ -z $CPUS ]] || export SRUN_CPUS_PER_TASK="$CPUS"
# One task per GPU, unless the job says how many. It has the CPUs of one task then, on each node.
TASKS=()
if [[ -z ${SLURM_NTASKS:-}${SLURM_NTASKS_PER_NODE:-} && ${SLURM_GPUS_ON_NODE:-0} -gt 1 ]]; then
    TASKS=(--ntasks-per-node="$SLURM_GPUS_ON_NODE" --overcommit)
    CPUS=$((${SLURM_CPUS_ON_NODE:-1} > SLURM_GPUS_ON_NODE ? SLURM_CPUS_ON_NODE / SLURM_GPUS_ON_NODE : 1))
    TASKS+=(--cpus-per-task="$CPUS")
    unset SRUN_CPUS_PER_TASK
    echo "$SLURM_GPUS_ON_NODE tasks on each node share its ${SLURM_CPUS_ON_NODE:-?} CPUs: with" \
        "--ntasks-per-node=$SLURM_GPUS_ON_NODE each gets as many as --cpus-per-task says"
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${CPUS:-1}}"
# Lines of several tasks carry their number.
((${#TASKS[@]} == 0 && ${SLURM_NTASKS:-1} == 1 && ${SLURM_JOB_NUM_NODES:-1} == 1)) || TASKS+=(--label)

# run_step COMMAND...: run a step (srun ...) to its end. Slurm sends the signal before the time limit to this shell alone;
# it goes on to the step as SIGUSR1. SIGTERM too, since srun itself would answer that by killing the tasks. When the step
# was killed by such a signal before it could listen, the job is requeued here; else the run did what is to be done.
run_step() {
    local code=0 next=0 signalled reminder=""
    pass_on() {
        signalled=1
        kill -USR1 "$STEP" 2>/dev/null
        # srun that has not launched its tasks yet does not pass a signal on
        [[ -n $reminder ]] || { while sleep 5 && kill -USR1 "$STEP"; do :; done 2>/dev/null & reminder=$!; }
    }
    trap pass_on USR1 TERM
    "$@" &
    STEP=$!
    while true; do
        signalled=""
        wait "$STEP"
        next=$?
        [[ $next == 127 ]] || code=$next # 127: its end was told already
        [[ -n $signalled ]] || break     # else a signal ended the waiting, not the step
    done
    trap '' USR1 TERM # Slurm may be ending this job by now, and the last words take a moment
    [[ -z $reminder ]] || kill "$reminder" 2>/dev/null
    ((code == 0)) || "$PYTHON" -m partbox.engine.slurm.ended "$code"
    return "$code"
}
