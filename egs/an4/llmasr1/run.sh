#!/usr/bin/env bash
# AN4: real speech. Options are those of llmasr.sh; --smoke for a few utterances and steps.
set -euo pipefail

. ./path.sh
. ./db.sh
test_sets="test:id test_noise:ood test_tempo:ood"
[ -z "${FSDD}" ] || test_sets+=" test_fsdd:ood"
[ -z "${SO762}" ] || test_sets+=" test_so762:ood"
opts=(
    --train_set train
    --valid_set valid
    --test_sets "${test_sets}"
    --systems "ctc ctc_lm slam lora lora_long hard soft_k10"
    --baseline lora
    --speed_perturb_factors "0.9 1.0 1.1"
    --augment_cache true
    --vocab_size 200
    --whole_words 98
    --lm_valid_text "valid=data/lm/valid.txt"
    --smoke_opts "--local_data_opts=--smoke=true --vocab_size 160 --whole_words 40"
)
exec ./llmasr.sh "${opts[@]}" "$@"
