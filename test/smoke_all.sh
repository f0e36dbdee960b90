#!/usr/bin/env bash
# All smoke runs, two at a time; each script can be run alone, too. What a run says is printed whole when it has ended. The first
# one that fails ends the others, and what it said is printed last.

set -euo pipefail

# begin options
at_once=2                      # runs beside each other
only=                          # some of the scripts, e.g. "smoke.sh race.sh"
# end options
test=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
utils=${test}/../egs/TEMPLATE/llmasr1/utils
. "${utils}/parse_options.sh"

# The longest first.
runs=(
    "smoke_librispeech_jstip.sh"
    "smoke.sh"
    "smoke_librispeech.sh"
    "smoke_mini_librispeech.sh"
    "smoke_fork.sh"
    "smoke_mini_librispeech_jstip.sh"
    "race.sh --times 1 --stop_stage 4"
)
[[ ${at_once} =~ ^[1-9][0-9]*$ ]] || { echo "smoke: error: --at_once ${at_once}: give a whole number of 1 or more" >&2 && exit 2; }
if [ -n "${only}" ]; then
    all=("${runs[@]}") runs=()
    for name in ${only}; do
        found=${#runs[@]}
        for run in "${all[@]}"; do [ "${run%% *}" != "${name}" ] || runs+=("${run}"); done
        [ ${#runs[@]} -gt "${found}" ] || { echo "smoke: error: --only ${name}: must be of: ${all[*]%% *}" >&2 && exit 2; }
    done
fi

# Some stages take two threads, as others do beside them: a thread that waits for another one sleeps, and leaves it the core.
export OMP_WAIT_POLICY=passive
logs=$(mktemp -d)
declare -A running=() # {process: run}
stop() {
    [ ${#running[@]} -eq 0 ] || kill "${!running[@]}" 2>/dev/null || true
    wait
    local name
    for name in ${running[@]+"${running[@]}"}; do
        echo "=== ${name}, which was ended; the last of it:"
        tail -n 5 "${logs}/${name%% *}"
    done
    running=()
}
trap 'stop; rm -rf "${logs}"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# A process that has ended.
ended() {
    local name=${running[$1]} status=0
    wait "$1" || status=$?
    unset "running[$1]"
    if [ "${status}" -ne 0 ]; then
        [ ${#running[@]} -eq 0 ] || echo "smoke: ending ${running[*]}"
        stop
    fi
    echo "=== ${name}"
    cat "${logs}/${name%% *}"
    if [ "${status}" -ne 0 ]; then
        echo "smoke: FAILED: ${name} (exit code ${status})" >&2
        exit 1
    fi
}
while [ ${#runs[@]} -gt 0 ] || [ ${#running[@]} -gt 0 ]; do
    while [ ${#runs[@]} -gt 0 ] && [ ${#running[@]} -lt "${at_once}" ]; do
        read -ra words <<<"${runs[0]}"
        echo "smoke: ${runs[0]} begins (${SECONDS} s)"
        "${utils}/together.sh" "${test}/${words[0]}" "${words[@]:1}" >"${logs}/${words[0]}" 2>&1 &
        running[$!]=${runs[0]}
        runs=("${runs[@]:1}")
    done
    sleep 0.5
    for process in "${!running[@]}"; do
        kill -0 "${process}" 2>/dev/null || ended "${process}"
    done
done
echo "smoke: all passed (${SECONDS} s)"
