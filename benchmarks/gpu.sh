#!/usr/bin/env bash
# All that a bare machine with a GPU can tell, in at most six minutes: parity, the time budget, a table end to end.
# bash benchmarks/gpu.sh OUT [CIFAR10 [SECTION ...]] writes under OUT. CIFAR10 is a folder that --data takes, SECTIONs are
# those of benchmarks/gpu.py, all where none is named. Neither ray nor git is needed. Exit code 0: all that was asked for
# ran. After it, benchmarks/gpu_tables.sh fills what time there is with the tables of cifar10_short.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?a folder for what it finds}
data=${2:-}
sections=("${@:3}")
mkdir -p "$out"
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 SIMSIAM_TRACK=none
begun=$SECONDS
left() { echo $((345 - SECONDS + begun)); }
command -v nvidia-cuda-mps-control || echo "no MPS here: --jobs above 1 gains nothing"

# By INT pytest still says what has failed so far.
timeout -s INT -k 10 110 python3 -m pytest -c /dev/null --rootdir . -q -rA -p no:cacheprovider \
    -k "not compiled" tests/test_cuda.py >"$out/parity.txt" 2>&1
code=$?
grep -E "^(FAILED|ERROR)|passed|failed|another order" "$out/parity.txt" | cut -c1-300
[ $code -eq 0 ] || { echo "parity: exit code $code, see $out/parity.txt"; tail -3 "$out/parity.txt"; }

timeout $(($(left) - 80)) python3 -m benchmarks.gpu "$out" $(($(left) - 120)) "${sections[@]}" 2>&1 | tee "$out/budget.txt" || code=1

if [ -z "$data" ]; then
    echo "end to end: skipped, without pictures"
elif [ "$(left)" -le 75 ]; then
    echo "end to end: skipped, the time is over"
    code=1
else
    timeout "$(left)" python3 ablations/run.py --table stop_gradient --recipe cifar10_short --launcher local \
        --data "$data" --results "$out/results" --set epochs=4 2>&1 | tail -25 | tee "$out/end_to_end.txt" || code=1
    tar -C "$out" --exclude=results/checkpoints -czf "$out/results.tgz" results && rm -r "$out/results" || code=1
fi
echo "took $((SECONDS - begun)) s"
exit $code
