#!/usr/bin/env bash
# Every stage of the recipe template on a few sentences of mini_tts, in a temporary directory: a full run, a second one
# that has nothing left to do, decoding and scoring again, and mistyped options.

set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/smoke_room.sh" mini_tts/llmasr1
systems="ctc lora soft_k10"
phases="start start-lora start-hard start-hard-soft_k10"
# Names that were once taken for something else: of a mean, in a label, in paths.
sets="test_id test_voices test_noise test_medical mean_voices"
exp="exp=a:b_smoke"
smoke_run() {
    ./run.sh --smoke true --systems "${systems}" --speed_perturb_factors "0.9 1.0" --expdir "exp=a:b" \
        --test_sets "test_id:id test_voices:ood test_noise:ood test_medical:ood mean_voices:ood" \
        --lm_valid_text "everyday=data/lm/valid.txt odd=data/lm/a=b:c.txt" "$@"
}
cat >>conf/systems.yaml <<'END'
systems:
  lora: {label: "LoRA | rank = 16: 'all'", phases: [start, lora]}
END
sed -i 's/^exec //' local/data.sh
cat >>local/data.sh <<'END'
data=data_smoke
[ -d "${data}/mean_voices" ] || cp -r "${data}/test_voices" "${data}/mean_voices"
cp "${data}/lm/valid_medical.txt" "${data}/lm/a=b:c.txt"
END
# A run that must succeed, its output in file $1.
passes() {
    local log=$1
    shift
    if ! smoke_run "$@" >"${log}" 2>&1; then
        tail -n 40 "${log}" >&2
        fail "a run that should pass failed: $*"
    fi
}
# A run that must fail before it does anything, with $1 in what it says.
fails_with() {
    local expected=$1 status=0
    shift
    smoke_run "$@" >fails.log 2>&1 || status=$?
    [ "${status}" -ne 0 ] || fail "$*: should fail, but passed"
    grep -qF -- "${expected}" fails.log || fail "$*: should say ${expected}, but said: $(tail -n 3 fails.log)"
    ! grep -qE "Stage [0-9]+:|Traceback" fails.log || fail "$*: did not fail at once: $(tail -n 3 fails.log)"
}

note "wrong options"
fails_with "did you mean '--systems'?" --systms "ctc"
fails_with "did you mean '--stage'?" --stge 1
fails_with "stages are 1 to" --stage 99
fails_with "did you mean 'lora'?" --systems "lroa"
cp conf/systems.yaml systems.yaml
echo "phases: {lora: {max_epohc: 3}}" >>conf/systems.yaml
fails_with "did you mean 'max_epoch'?"
mv systems.yaml conf/systems.yaml
[ ! -e data_smoke ] || fail "a run that failed at once left data_smoke"

note "every stage"
passes first.log
for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    grep -q "Stage ${number}:" first.log || fail "stage ${number} is not in the log"
done
check_results "${exp}" "${systems}" "${sets}"
for file in "${exp}"/{RESULTS.md,report/report.html,align/test_id.ctm,start-lora/diagnostics.json} \
    "${exp}"/analysis/{ANALYSIS.md,analysis.json,nearest.html,tsne_test_id.png} data_smoke/train_sp/wav.scp; do
    [ -s "${file}" ] || fail "${file} is missing or empty"
done
grep -qF "LoRA \\| rank = 16: 'all'" "${exp}/RESULTS.md" || fail "the label with | is not in RESULTS.md as it is"
grep -qF "odd" "${exp}/llm/perplexity.json" || fail "the text with = and : in its path was not measured"

note "a run in the same directory at the same time is refused"
(
    exec 9>"${exp}/.lock"
    flock 9
    fails_with "another run"
)

note "a second run has nothing to do"
made() { find data_smoke dump_smoke "${exp}" -name '*.pth' -o -name 'hyp.jsonl' -o -name '*.ark' -o -name '*.wav' \
    -o -name '*.safetensors' -o -name '*.ctm' -o -name 'sequences.jsonl' | sort | xargs stat -c '%n %Y %i'; }
made >before
passes second.log
made >after
cmp before after || fail "the second run made these again: $(diff before after)"
for tag in encoder ${phases}; do
    grep -qF "[${tag}] is trained, nothing to do" second.log || fail "the second run does not say that ${tag} is trained"
done
for system in ${systems}; do
    grep -qF "[${system}] all sets are decoded, nothing to do" second.log || fail "the second run decoded with ${system}"
done
grep -qF "${exp}/analysis is up to date, nothing to do" second.log || fail "the second run analysed again"
! grep -qE "training, log in|loading libraries|checking configs" second.log || fail "the second run loaded ESPnet"

note "decoding and scoring again"
cp "${exp}/results.json" results.json
passes third.log --stage 12 --stop_stage 13
! grep -q "nothing to do" third.log || fail "--stage 12 did not decode again"
cmp "${exp}/results.json" results.json || fail "results.json is not what it was"

note "every change of an option or a config is seen"
python3 "${root}/test/changes.py" "${exp}" "${root}/docs/recipes.md"

note "passed"
