#!/usr/bin/env bash
# mini_tts: text written for this recipe, spoken by espeak-ng; nothing is downloaded. The default recipe.
# Options are those of llmasr.sh; --smoke for a few utterances and steps.
set -euo pipefail

if [[ " $* " =~ [\ =]paper_b\  ]]; then
    echo "$0: error: the rows of paper_b need other data; they are in ../jstip1: cd ../jstip1 && ./run.sh --systems paper_b" >&2
    exit 2
fi
opts=(
    --train_set train
    --valid_set valid
    --test_sets "test_id:id test_voices:ood test_noise:ood test_medical:ood"
    --systems "ctc ctc_lm slam lora lora_long hard soft_k10"
    --baseline lora
    --vocab_size 800
    --whole_words 400
    --align_sets "test_id"
    --lm_valid_text "everyday=data/lm/valid.txt medical=data/lm/valid_medical.txt"
    --smoke_opts "--local_data_opts=--smoke=true --vocab_size 400 --whole_words 100"
)
exec ./llmasr.sh "${opts[@]}" "$@"
