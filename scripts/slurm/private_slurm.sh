#!/usr/bin/env bash
# A Slurm of your own on this machine, to try things out. `bash scripts/slurm/private_slurm.sh --help` explains.
set -euo pipefail

usage() {
    cat <<'HELP'
A Slurm of your own on this machine: real controller and real nodes, no systemd, no root, nothing outside of one folder.

    bash scripts/slurm/private_slurm.sh start DIR [NODES]     2 nodes when left out
    eval "$(bash scripts/slurm/private_slurm.sh start DIR)"   and let this shell's sbatch, squeue, ... talk to it
    bash scripts/slurm/private_slurm.sh stop DIR              cancels its jobs, then ends its programs; DIR stays

DIR is a folder of its own with a short path (70 characters: it holds unix sockets). A start that finds its Slurm running
changes nothing; after a stop it goes on with the jobs that it knew. The programs of Debian's packages slurm-wlm,
slurm-client and munge must be installed (apt-get install --no-install-recommends slurm-wlm slurm-client munge).

The nodes are called 127.0.0.1, 127.0.0.2, ... and all are this machine, so what they have is pretended: set it at the
first start with these variables.

    PRIVATE_SLURM_CPUS=4       CPUs of each node
    PRIVATE_SLURM_MEMORY=8000  megabytes of each node; a job that uses more than it asked for is killed, as elsewhere
    PRIVATE_SLURM_GPUS=2       GPUs of each node (devices that do nothing)

There is no accounting database: sacct has no answer, and finished jobs are forgotten after a day.
HELP
}

die() {
    printf 'private_slurm.sh: %s\n' "$*" >&2
    exit 1
}

PROGRAMS='munged|slurmctld|slurmd'
LAUNCH_WAIT=20 # seconds for all nodes to answer
STOP_WAIT=10   # seconds for a program to end before it is killed

# Whether the program that wrote run/NAME.pid is alive: its number may have gone to somebody else's program.
alive() { # alive NAME
    local pid
    pid="$(cat "$DIR/run/$1.pid" 2>/dev/null)" || return 1
    [[ -n $pid ]] && grep -qsxE "$PROGRAMS" "/proc/$pid/comm" || return 1
    { tr '\0' ' ' <"/proc/$pid/cmdline" && tr '\0' ' ' <"/proc/$pid/environ"; } 2>/dev/null | grep -F "$DIR/" >/dev/null
}

# Start a program that puts itself into the background; it must keep neither our output nor our lock open.
launch() { "$@" </dev/null >>"$DIR/log/start.log" 2>&1 9>&-; }

names_of_nodes() { sed -n 's/^NodeName=\([^ ]*\) .*/\1/p' "$DIR/slurm.conf" 2>/dev/null; }

free_ports() { # free_ports ADDRESS COUNT: the first of COUNT ports in a row that nobody listens on
    local first i
    for ((first = 20000 + $(cksum <<<"$DIR" | cut -d' ' -f1) % 1000 * 10; first < 60000; first += $2)); do
        for ((i = 0; i < $2; i++)); do
            (exec 3<>"/dev/tcp/$1/$((first + i))") 2>/dev/null && continue 2
        done
        printf '%s' "$first" && return
    done
    die "no $2 free ports in a row on $1"
}

write_configuration() { # write_configuration NODES
    local host user address port i listen="NoCtldInAddrAny,NoInAddrAny" gpus="${PRIVATE_SLURM_GPUS:-2}"
    host="$(hostname -s)" user="$(id -un)"
    address="$(getent ahostsv4 "$host" | awk 'NR == 1 {print $1}')"
    if [[ -z $address ]]; then # then Slurm cannot find the one address to listen on, and listens on all
        address=127.0.0.1 listen=""
    fi
    port="$(free_ports "$address" $(($1 + 1)))"
    # Read although no plugin here uses cgroups; looking for the version of the machine's own fails in containers.
    printf 'CgroupPlugin=cgroup/v1\n' >"$DIR/cgroup.conf"
    : >"$DIR/gres.conf"
    for ((i = 0; i < gpus; i++)); do ln -sfn /dev/null "$DIR/dev/gpu$i"; done
    ((gpus == 0)) || printf 'Name=gpu File=%s/dev/gpu[0-%d]\n' "$DIR" $((gpus - 1)) >"$DIR/gres.conf"
    {
        cat <<CONF
ClusterName=private
SlurmctldHost=$host($address)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job begins when the credentials of its last start have expired, so these are short (below 5, Slurm takes 120).
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=5
${listen:+CommunicationParameters=$listen}
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/%n.log
SlurmdParameters=config_overrides
MailProg=/bin/true
PropagateResourceLimits=NONE
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
KillWait=5
MinJobAge=86400
GresTypes=gpu
CONF
        for ((i = 1; i <= $1; i++)); do
            printf 'NodeName=127.0.0.%d NodeHostname=%s NodeAddr=%s Port=%d CPUs=%d RealMemory=%d Gres=gpu:%d\n' \
                "$i" "$host" "$address" $((port + i)) "${PRIVATE_SLURM_CPUS:-4}" "${PRIVATE_SLURM_MEMORY:-8000}" "$gpus"
        done
        printf 'PartitionName=private Nodes=ALL Default=YES\n'
    } >"$DIR/slurm.conf.new"
    mv "$DIR/slurm.conf.new" "$DIR/slurm.conf"
}

wait_for_nodes() {
    local wanted ready deadline=$((SECONDS + LAUNCH_WAIT))
    wanted="$(names_of_nodes | wc -l)"
    while ((SECONDS < deadline)); do
        ready="$(timeout 5 sinfo --noheader --Node --format=%t 2>/dev/null | grep -cxE 'idle|mix|alloc|comp')" || true
        [[ $ready == "$wanted" ]] && return
        sleep 0.1
    done
    tail -qn 3 "$DIR"/log/*.log >&2 || true
    die "its nodes did not answer within $LAUNCH_WAIT seconds; the reason is above and in $DIR/log"
}

start() { # start [NODES]
    local program node nodes="${1:-2}"
    for program in munged slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null || die "$program is missing; install slurm-wlm, slurm-client and munge"
    done
    [[ $nodes =~ ^[1-9][0-9]?$ ]] || die "NODES is a number from 1 to 99, not '$nodes'"
    mkdir -p "$DIR"/{run,log,state,spool,dev}
    if [[ ! -s $DIR/munge.key ]]; then
        (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge.key")
    fi
    # First start, or the machine was given another name since.
    grep -qsF "SlurmctldHost=$(hostname -s)(" "$DIR/slurm.conf" || write_configuration "$nodes"
    export SLURM_CONF="$DIR/slurm.conf"
    # --force: munged refuses a socket below a folder that only its owner may enter, such as those of mktemp -d
    alive munged || launch munged --force --socket="$DIR/run/munge.sock" --key-file="$DIR/munge.key" \
        --pid-file="$DIR/run/munged.pid" --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munge.seed"
    alive slurmctld || launch slurmctld
    for node in $(names_of_nodes); do alive "$node" || launch slurmd -N "$node"; done
    wait_for_nodes
    printf 'export SLURM_CONF=%q\n' "$DIR/slurm.conf"
}

end_program() { # end_program NAME
    local pid deadline=$((SECONDS + STOP_WAIT))
    if alive "$1"; then
        pid="$(<"$DIR/run/$1.pid")"
        kill -TERM "$pid"
        while alive "$1" && ((SECONDS < deadline)); do sleep 0.1; done
        ! alive "$1" || kill -KILL "$pid"
    fi
    rm -f "$DIR/run/$1.pid"
}

stop() {
    local node deadline=$((SECONDS + 2 * STOP_WAIT))
    export SLURM_CONF="$DIR/slurm.conf"
    if alive slurmctld; then # the processes of a job outlive the node's program, so jobs go first
        timeout 10 squeue --noheader --format=%A 2>/dev/null | sort -u | xargs -r timeout 10 scancel 2>/dev/null || true
        while [[ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ]] && ((SECONDS < deadline)); do sleep 0.2; done
    fi
    for node in $(names_of_nodes); do end_program "$node"; done
    end_program slurmctld
    end_program munged
}

PATH="$PATH:/usr/sbin:/sbin"
case "${1:-}" in
    -h | --help) usage && exit 0 ;;
    start | stop) [[ -n ${2:-} ]] || die "$1 needs a folder; --help tells the usage" ;;
    *) die "start or stop; --help tells the usage" ;;
esac
[[ $1 == start ]] || [[ -d $2 ]] || exit 0
umask 022
unset "${!SLURM_@}" # of a job or of another Slurm
mkdir -p "$2"
DIR="$(cd "$2" && pwd -P)"
((${#DIR} <= 70)) && [[ $DIR != *[[:space:]]* ]] || die "the path $DIR is longer than 70 characters or has blanks"
exec 9>"$DIR/.lock"
flock -w 60 9 || die "another start or stop of $DIR is going on"
"$1" "${@:3}"
