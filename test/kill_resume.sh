#!/usr/bin/env bash
# Kill -9 a smoke run of mini_tts at random moments, run it again, and compare its results with those of a run that was left
# alone: kill_resume.sh [TIMES [SEED]], by default 10 times. Takes a few minutes a time; not part of `make test`.
# KEEP=1 leaves the directory for inspection.

set -euo pipefail

times=${1:-10}
RANDOM=${2:-1}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export MAIN_ROOT=${root}
work=$(mktemp -d)
# shellcheck disable=SC2329
finish() { if [ -n "${KEEP:-}" ]; then echo "kill_resume: kept ${work}"; else rm -rf "${work}"; fi; }
trap finish EXIT

# A copy of the recipe without what its runs made: fresh NAME
fresh() {
    local recipe=${root}/egs/mini_tts/llmasr1
    mkdir "${work}/$1"
    cp -rL "${recipe}"/*.sh "${recipe}/conf" "${recipe}/local" "${recipe}/utils" "${work}/$1"
    cd "${work}/$1"
}
run() { ./run.sh --smoke --systems "ctc lora soft_k10"; }

fresh alone
begin=${SECONDS}
run >log 2>&1 || { tail -n 20 log >&2 && exit 1; }
took=$((SECONDS - begin))
echo "kill_resume: left alone, a run takes ${took} s"
for ((i = 1; i <= times; i++)); do
    fresh "killed${i}"
    at=$((RANDOM % took + 1))
    setsid ./run.sh --smoke --systems "ctc lora soft_k10" >first.log 2>&1 &
    group=$!
    sleep "${at}"
    kill -9 -- "-${group}" 2>/dev/null || echo "kill_resume: run ${i} had ended before ${at} s"
    wait "${group}" 2>/dev/null || true
    where=$(grep -o 'Stage [0-9]*' first.log | tail -n 1 || true)
    run >second.log 2>&1 || { tail -n 20 second.log >&2 && echo "kill_resume: run ${i}, killed after ${at} s (${where}): did not finish" >&2 && exit 1; }
    cmp exp_smoke/results.json "${work}/alone/exp_smoke/results.json" || { echo "kill_resume: run ${i}, killed after ${at} s (${where}): other results" >&2 && exit 1; }
    echo "kill_resume: run ${i}, killed after ${at} s (${where:-before stage 1}): same results"
    rm -rf "${work}/killed${i}"
done
echo "kill_resume: ${times} of ${times}"
