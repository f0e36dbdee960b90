#!/usr/bin/env bash
# Mini LibriSpeech: five hours of read books, a pretrained Whisper encoder and Gemma; tested on up to seven other corpora.
# Paths are in db.sh. Options are those of llmasr.sh; --smoke for a few utterances and steps.
set -euo pipefail

. ./path.sh
. ./db.sh
test_sets="test_libri:id"
if [ "${MINI_LIBRISPEECH}" = download ] || [ -d "${MINI_LIBRISPEECH}/LibriSpeech/dev-clean-2" ] || [ -d "${MINI_LIBRISPEECH}/dev-clean-2" ]; then
    test_sets+=" dev_clean_2:id"
fi
[ -z "${COMMONVOICE}" ] || test_sets+=" test_commonvoice:ood"
[ -z "${AN4}" ] || test_sets+=" test_an4:ood"
[ -z "${S2I}" ] || test_sets+=" test_coffee:ood"
[ -z "${ARCTIC}" ] || test_sets+=" test_arctic:ood"
[ -z "${ALNUM}" ] || test_sets+=" test_alnum:ood"
[ -z "${SO762}" ] || test_sets+=" test_so762:ood"
[ -z "${FSDD}" ] || test_sets+=" test_digits:ood"
# The prompts of that set are no transcripts.
set_normalisers=${ALNUM:+test_alnum=spelled}
if [ -n "${DEV_UTTERANCES}" ]; then # valid is decoded anyway, for --ctc_weight
    test_sets="" set_normalisers=""
    [ -z "${S2I}" ] || test_sets+=" dev_coffee:ood"
    [ -z "${ARCTIC}" ] || test_sets+=" dev_arctic:ood"
    [ -z "${SO762}" ] || test_sets+=" dev_so762:ood"
    if [ -z "${test_sets}" ]; then
        echo "run.sh: error: DEV_UTTERANCES needs S2I, ARCTIC or SO762 (db.sh)" >&2
        exit 1
    fi
fi
smoke_opts="--local_data_opts=--smoke=true"
if [ -z "${LLM}" ]; then
    LLM=llm/gemma # of local/llm.sh
    smoke_opts+=" --llm=llm_smoke/gemma"
fi
tts=()
if [ -n "${TTS_FROM}" ]; then
    voices=""
    for accent in en-us en-gb en-gb-scotland en-gb-x-rp en-us-nyc en-029 en-gb-x-gbclan en-gb-x-gbcwmd; do
        for variant in "" +m1 +m2 +m3 +m4 +m5 +m6 +m7 +f1 +f2 +f3 +f4 +f5; do voices+=" ${accent}${variant}"; done
    done
    tts=(--tts_text data/tts_text --tts_voices "${voices# }" --encoder_tts true)
fi
opts=(
    --train_set train
    --valid_set valid
    --test_sets "${test_sets}"
    --systems "recogniser ctc ctc_lm slam lora lora_long hard soft_k10 soft_k100"
    --baseline lora_long
    "${tts[@]}"
    --prompt "speech: {speech} text: {text}"
    --pretrained_encoder "${WHISPER}"
    --encoder_config conf/head.yaml
    --llm "${LLM}"
    # One phase after the other with all cores: two at once, with one each, take longer in all.
    --train_jobs 1
    # The LLM checks what the CTC head wrote, and goes on from there: a greedy search.
    --num_beams 1
    --draft ctc
    # Between that and what the head wrote, the weight decides that is the best on the validation set: a loop loses to the draft.
    --ctc_weight valid
    # Whisper's window.
    --max_duration 30
    # Of cased text with punctuation and of lower case without, numbers in digits or in words.
    --normaliser whisper_english
    --set_normalisers "${set_normalisers}"
    --lm_valid_text "valid=data/lm/valid.txt"
    --smoke_opts "${smoke_opts}"
)
exec ./llmasr.sh "${opts[@]}" "$@"
