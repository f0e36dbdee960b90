#!/usr/bin/env bash
# Kill a smoke run of mini_tts in each stage at a random moment and give the same command again, until it has passed all stages.
# Then it must have the same results and the same files as a run that was left alone; after each kill no process may be left.
# A pass takes about five times as long as a run; not part of `make test`. KEEP=1 leaves the directory for inspection.

set -euo pipefail

# begin options
times=10                       # passes with each signal
stages="1 2 3 4 5 6 7 8 9 10 11 12 13 14 15" # stages in which runs are killed
signals="TERM KILL"            # by which
seed=1                         # of the moments
alone=                         # directory of a run that was left alone, as KEEP=1 leaves it; made if empty
# end options
test=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "${test}/../egs/TEMPLATE/llmasr1/utils/parse_options.sh"
. "${test}/smoke_room.sh" ""
. "${test}/smoke_runs.sh"

RANDOM=${seed}
options=(--nj 2 --systems "ctc lora soft_k10" --speed_perturb_factors "0.9 1.0")

if [ -z "${alone}" ]; then
    room alone
    alone=${work}/alone
    run "${options[@]}" >log 2>&1 || { tail -n 20 log >&2 && fail "the run that was left alone failed"; }
    note "a run that was left alone has ended"
fi
cd "${alone}"
files >"${work}/files"
declare -A starts
while read -r second number; do starts[${number}]=${second}; done < <(stage_starts log)
starts[16]=$(date -r exp_smoke/report/report.html +%s)

# Start a run, and send it signal $2 somewhere in stage $1, or when it has ended.
kill_in() {
    local pid sleeps length=$((starts[$(($1 + 1))] - starts[$1])) before
    before=$(stage_starts log | wc -l)
    run "${options[@]}" >>log 2>&1 &
    pid=$!
    while ! stage_starts log | tail -n "+$((before + 1))" | grep -q " $1$"; do
        kill -0 "${pid}" 2>/dev/null || { tail -n 20 log >&2 && fail "the run ended before stage $1"; }
        sleep 0.02
    done
    sleeps=$(awk -v u="${RANDOM}" -v most="$((length + 1))" 'BEGIN { printf "%.2f", most * u / 32768 }')
    sleep "${sleeps}"
    kill -s "$2" "${pid}" 2>/dev/null || note "the run had ended"
    wait "${pid}" 2>/dev/null || true
    note "$2 in stage $1 after ${sleeps} s, when it was in $(stage_starts log | tail -n 1 | cut -d " " -f 2)"
    for _ in {1..150}; do
        [ -n "$(left_running)" ] || return 0
        sleep 0.1
    done
    fail "$2 in stage $1 after ${sleeps} s: still running: $(left_running)"
}

for signal in ${signals}; do
    for ((i = 1; i <= times; i++)); do
        room "${signal}${i}"
        for number in ${stages}; do kill_in "${number}" "${signal}"; done
        run "${options[@]}" >>log 2>&1 || { tail -n 20 log >&2 && fail "${signal}, pass ${i}: did not finish"; }
        ! grep -n Traceback log >&2 || fail "${signal}, pass ${i}: a traceback"
        cmp exp_smoke/results.json "${alone}/exp_smoke/results.json" || fail "${signal}, pass ${i}: other results"
        files | diff "${work}/files" - || fail "${signal}, pass ${i}: other files"
        note "${signal}, pass ${i}: same results, same files"
        rm -rf "${work:?}/${signal}${i}"
    done
done
note "passed"
