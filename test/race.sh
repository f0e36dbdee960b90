#!/usr/bin/env bash
# Two smoke runs of mini_tts with experiment directories of their own and the same data and dump directories, started together.
# Both must end well, with the results of a run that was left alone, and leave the files that it leaves.
# KEEP=1 leaves the directory for inspection.

set -euo pipefail

# begin options
times=10                       # pairs of runs
stop_stage=15                  # last stage; from 13 on, results are compared
# end options
test=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "${test}/../egs/TEMPLATE/llmasr1/utils/parse_options.sh"
. "${test}/smoke_room.sh" ""
. "${test}/smoke_runs.sh"

options=(--nj 2 --systems "ctc lora soft_k10" --speed_perturb_factors "0.9 1.0" --stop_stage "${stop_stage}")
# Tables, sequences and sound: what is made but for records and locks, which have times.
content() { find data_smoke dump_smoke -type f ! -name '*made.json' ! -name .lock -print0 | sort -z | xargs -0 sha256sum; }

room alone
run "${options[@]}" --expdir a >log 2>&1 || { tail -n 20 log >&2 && fail "the run that was left alone failed"; }
files >"${work}/files"
sed -n 's/^\.\/a_smoke/.\/b_smoke/p' "${work}/files" | sort - "${work}/files" >"${work}/both"
content >"${work}/content"
note "a run that was left alone has ended"
for ((i = 1; i <= times; i++)); do
    mv "${work}/alone" "${work}/first" 2>/dev/null || true
    room alone # the same path, as tables name it
    run "${options[@]}" --expdir a >a.log 2>&1 &
    a=$!
    run "${options[@]}" --expdir b >b.log 2>&1 &
    b=$!
    wait "${a}" || { tail -n 20 a.log >&2 && fail "race ${i}: the first run failed"; }
    wait "${b}" || { tail -n 20 b.log >&2 && fail "race ${i}: the second run failed"; }
    ! grep -n Traceback a.log b.log >&2 || fail "race ${i}: a traceback"
    content | cmp "${work}/content" - || fail "race ${i}: other data: $(content | diff "${work}/content" - | head)"
    files | diff "${work}/both" - || fail "race ${i}: other files"
    if [ "${stop_stage}" -ge 13 ]; then
        for run in a b; do
            cmp "${run}_smoke/results.json" "${work}/first/a_smoke/results.json" || fail "race ${i}: other results of ${run}"
        done
    fi
    note "race ${i}: both ended well; waited: $(grep -ac 'waiting for' a.log b.log | tr '\n' ' ')"
    cd "${work}"
    rm -rf "${work:?}/alone"
done
note "passed"
