#!/usr/bin/env bash
# All that a bare machine with a GPU can tell, in at most six minutes: parity, the time budget, a table end to end.
# bash benchmarks/gpu.sh OUT [CIFAR10] writes under OUT. CIFAR10 is a folder that --data takes.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?a folder for what it finds}
data=${2:-}
mkdir -p "$out"
export PYTHONPATH=. PYTHONUNBUFFERED=1
begun=$SECONDS
left() { echo $((345 - SECONDS + begun)); }

timeout 110 python3 -m pytest -c /dev/null --rootdir . -q -rA -p no:cacheprovider \
    -k "not compiled" tests/test_cuda.py >"$out/parity.txt" 2>&1
grep -E "^(FAILED|ERROR)|passed|failed|another order" "$out/parity.txt" | cut -c1-300

timeout "$(left)" python3 -m benchmarks.gpu "$out" $(($(left) - 120)) 2>&1 | tee "$out/budget.txt"

if [ -n "$data" ] && [ "$(left)" -gt 30 ]; then
    timeout "$(left)" python3 ablations/run.py --table stop_gradient --recipe cifar10_short --launcher local \
        --data "$data" --results "$out/results" --set epochs=4 2>&1 | tail -25 | tee "$out/end_to_end.txt"
    tar -C "$out" -czf "$out/results.tgz" results && rm -r "$out/results"
fi
echo "took $((SECONDS - begun)) s"
