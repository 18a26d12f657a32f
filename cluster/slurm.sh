#!/usr/bin/env bash
# A table within one Slurm allocation, in the checkout's root: sbatch cluster/slurm.sh --table batch_size --workers 4
# Before: `make demo` for .venv, SIMSIAM_DATA and SIMSIAM_RESULTS set to places that all nodes see. The first node is
# the head and trains too. NOT TRIED on a real Slurm: the tests run it with a stand-in for srun.
#SBATCH --job-name=simsiam
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --requeue
set -euo pipefail
: "${SIMSIAM_DATA:?}" "${SIMSIAM_RESULTS:?}"

# The token is this job's own and stands in no file: srun hands it on.
RAY_AUTH_TOKEN=$(python3 -c "import secrets; print(secrets.token_hex(32))")
head=${SLURMD_NODENAME:-$(hostname)} others=$((SLURM_JOB_NUM_NODES - 1))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_ADDRESS=$head:6379 PATH=$PWD/.venv/bin:$PATH

# Until a command succeeds, or Ray has ended where it was started last.
wait_for() {
  until "$@" >/dev/null 2>&1; do
    kill -0 $! 2>/dev/null || { echo "slurm.sh: Ray has not started, see above." >&2; exit 1; }
    sleep 2
  done
}

# Ray lets all users of a machine write in its temporary folder, where the code lies, so it is within one of this user
# alone.
in_own_folder='folder=$(mktemp --directory /tmp/ray-XXXXXXXX) && trap "rm -rf $folder" EXIT && "$@" --temp-dir=$folder/r'
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash -c "$in_own_folder" bash \
  ray start --head --port=6379 --dashboard-host=127.0.0.1 --block &
wait_for ray health-check --address="$RAY_ADDRESS"
if ((others)); then
  srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" bash -c "$in_own_folder" bash \
    ray start --address="$RAY_ADDRESS" --block &
fi

# run.py plans for the nodes that are there. A requeued job goes on from what is finished.
wait_for python -c "import ray; ray.init(); assert sum(n['Alive'] for n in ray.nodes()) == $SLURM_JOB_NUM_NODES"
# Two minutes before Slurm would end it, run.py ends by itself, if need be half done, and the job waits for its next turn.
limit=()
if [[ -n ${SLURM_JOB_END_TIME:-} && " $* " != *" --time-limit"[\ =]* ]]; then  # run.py takes one
  limit=(--time-limit "$(((SLURM_JOB_END_TIME - $(date +%s)) / 60 - 2))")
fi
code=0
python ablations/run.py "${limit[@]}" "$@" || code=$?
if ((code == 75)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
