#!/usr/bin/env bash
# mini_tts: text written for this recipe, spoken by espeak-ng; nothing is downloaded. The default recipe.
# Options are those of llmasr.sh, and --smoke true for a few utterances and steps.
set -euo pipefail

smoke=false
args=()
while [ $# -gt 0 ]; do
    case $1 in
    --smoke=*) smoke=${1#*=} && shift ;;
    --smoke) smoke=${2:-} && shift 2 ;;
    *) args+=("$1") && shift ;;
    esac
done

if [[ " ${args[*]-} " =~ [\ =]paper_b\  ]]; then
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
    --lm_train_text data/lm/train.txt
    --lm_valid_text "everyday=data/lm/valid.txt medical=data/lm/valid_medical.txt"
)
if [ "${smoke}" = true ]; then
    opts+=(
        --datadir data_smoke --dumpdir dump_smoke --expdir exp_smoke
        --local_data_opts "--smoke true"
        --vocab_size 400 --whole_words 100
        --lm_config conf/lm_smoke.yaml
        --lm_train_text data_smoke/lm/train.txt
        --lm_valid_text "everyday=data_smoke/lm/valid.txt medical=data_smoke/lm/valid_medical.txt"
        --train_overrides "max_epoch=1 num_iters_per_epoch=2"
    )
elif [ "${smoke}" != false ]; then
    echo "$0: error: --smoke must be true or false" >&2
    exit 2
fi
exec ./llmasr.sh "${opts[@]}" ${args[@]+"${args[@]}"}
