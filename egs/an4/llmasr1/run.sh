#!/usr/bin/env bash
# AN4: real speech. Options are those of llmasr.sh, and --smoke true for a few utterances and steps.
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
    --lm_train_text data/lm/train.txt
    --lm_valid_text "valid=data/lm/valid.txt"
)
if [ "${smoke}" = true ]; then
    opts+=(
        --datadir data_smoke --dumpdir dump_smoke --expdir exp_smoke
        --local_data_opts "--smoke true"
        --vocab_size 160 --whole_words 40
        --lm_config conf/lm_smoke.yaml
        --lm_train_text data_smoke/lm/train.txt
        --lm_valid_text "valid=data_smoke/lm/valid.txt"
        --train_overrides "max_epoch=1 num_iters_per_epoch=2"
    )
elif [ "${smoke}" != false ]; then
    echo "$0: error: --smoke must be true or false" >&2
    exit 2
fi
exec ./llmasr.sh "${opts[@]}" ${args[@]+"${args[@]}"}
