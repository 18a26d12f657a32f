#!/usr/bin/env bash
# The tables of recipe cifar10_short on a machine with a GPU, as far as some minutes go:
# bash benchmarks/gpu_tables.sh OUT CIFAR10 MINUTES [TABLES.tgz] writes OUT/tables.tgz, the results and what is published
# of them, and OUT/publish.txt, two minutes after that at the latest. TABLES.tgz is that of an earlier time, which it goes
# on from. It has no checkpoints, which are large: a trial that was half done begins again. At home, with the same CIFAR10:
#     place=results/published/cifar10_short; mkdir -p $place; tar -C $place --strip-components=1 -xzf tables.tgz published
# Exit code 75: not all is done yet.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?a folder for what it finds}
data=${2:?a folder that --data takes}
minutes=${3:?whole minutes}
mkdir -p "$out"
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 SIMSIAM_TRACK=none
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/results" "$work/published"
[ $# -lt 4 ] || tar -C "$work" -xzf "$4" || exit 2
timeout -s INT -k 10 $((60 * minutes + 90)) python3 -m benchmarks.publish cifar10_short --data "$data" \
    --results "$work/results" --into "$work/published" --time-limit "$minutes" 2>&1 | tee "$out/publish.txt"
code=${PIPESTATUS[0]}
tar -C "$work" --exclude=results/checkpoints -czf "$out/tables.tgz" results published || code=1
exit "$code"
