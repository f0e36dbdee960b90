#!/usr/bin/env bash
# egs/mini_librispeech/jstip1 as its README.md says: encoder and LLM of a smoke run of llmasr1 beside it, to stage 7, then the rows.
# Corpora of a few utterances in their public layouts (corpora/mini_librispeech.py), small random checkpoints in the formats of
# the real ones (standins.py); nothing is asked of the network.

set -euo pipefail

export HF_HUB_OFFLINE=1
. "$(dirname "${BASH_SOURCE[0]}")/smoke_room.sh" ""
export MAIN_ROOT=${root}
for recipe in llmasr1 jstip1; do
    from=${root}/egs/mini_librispeech/${recipe}
    mkdir "${recipe}"
    cp -rL "${from}"/*.sh "${from}/conf" "${from}/local" "${from}/utils" "${recipe}"
done
# shellcheck source=/dev/null
. llmasr1/path.sh
# One or more of each kind: told of words, the LLM trained on text and fused, ASR alone, interleaved, behind soft-VQ, synthetic
# speech, text as if heard, LoRA.
systems="recogniser_words ctc_lm_text asr_only_equal text_mixed text_mixed_soft tts heard text_lora"
sets="test_libri test_coffee test_contacts test_medical"

note "corpora and checkpoints"
unset CORPORA LLM MODELS ENCODER ENCODER_SMOKE LLM_SMOKE DOMAINS TTS_FROM
PYTHONPATH="${root}/test:${PYTHONPATH:-}" python3 -m corpora.mini_librispeech corpora >variables
# shellcheck source=/dev/null
. ./variables
unset COMMONVOICE AN4 ARCTIC SO762 FSDD
(cd "${root}/test" && python3 -c "import standins; standins.whisper_recogniser('${work}/models/whisper', encoder_layers=4); standins.llama('${work}/models/llama')")
for ill in asthma arthritis anemia; do
    for kind in old red new low sad odd; do
        for place in house bank account hello text; do echo "Doctor: Amoxicillin is for ${ill} in the ${kind} ${place}."; done
    done
done >turns.txt
export WHISPER=${work}/models/whisper GEMMA=${work}/models/llama MEDQUAD=${work}/turns.txt MTS_DIALOG=${work}/turns.txt

run() {
    if ! ./run.sh --smoke "$@" >log 2>&1; then
        tail -n 40 log >&2
        fail "a run that should pass failed: $*"
    fi
}
cd jstip1
! ./run.sh --smoke --dry_run >log 2>&1 || fail "a run without an encoder passed"
grep -q "exp_smoke/encoder/model.pth is not there; train encoder and LLM first" log || fail "a run without an encoder does not say so"

note "encoder and LLM"
cd ../llmasr1
run --systems ctc --ctc_pieces 60 --stop_stage 7 --skip_stages 6
cd ../jstip1
# The stand-in of the LLM has no <mask>.
given=(--systems "${systems}" --interleave_overrides segment_token=null)
run "${given[@]}" --dry_run
grep -q "lm_text" log || fail "the dry run does not say what it would train"
[ ! -e data_smoke ] || fail "the dry run wrote something"
note "the rows"
run "${given[@]}" --score_opts "--replicates 200" --skip_stages "6 14"
check_results exp_smoke "${systems}" "${sets}"
grep -q eer_norm exp_smoke/results.json || fail "no entity errors"
[ -s exp_smoke/lm_text/decode_ctc_lm_text_test_contacts/hyp.jsonl ] || fail "the LLM that has read text was not fused"
note "passed"
