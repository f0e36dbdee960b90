#!/usr/bin/env bash
# JSTIP on mini_tts: joint training on speech, text and both interleaved (arXiv 2607.01733), with its controls. Speech by
# espeak-ng; nothing is downloaded. Options are those of llmasr.sh, and --smoke true for a few utterances and steps.
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

datadir=data
[ "${smoke}" != true ] || datadir=data_smoke
opts=(
    --train_set train
    --valid_set valid
    --test_sets "test_id:id test_domain:ood"
    --systems paper_b
    --baseline asr_only_equal
    --vocab_size 800
    --whole_words 400
    --reserved_tokens "<N>"
    --align_sets test_id
    --tts_text "${datadir}/domain_tts/text"
    --tts_voices "en-us en-us+f2 en-gb+m3 en-gb+f4"
    --texts "domain=${datadir}/text/domain.txt"
    # What the phase `joint` takes in its steps, so that every mixture is gone through about once.
    --mixture_positions 550000
    --questions "mc=${datadir}/questions/mc.jsonl sqa=${datadir}/questions/sqa.jsonl"
    --questions_config conf/questions.yaml
    --lm_train_text "${datadir}/lm/train.txt"
    # Without the names of the domain: a piece that training speech never has cannot be recognised.
    --tokenizer_text "${datadir}/lm/tokenizer.txt"
    --lm_valid_text "everyday=${datadir}/lm/valid.txt domain=${datadir}/lm/valid_domain.txt"
)
if [ "${smoke}" = true ]; then
    opts+=(
        --datadir "${datadir}" --dumpdir dump_smoke --expdir exp_smoke
        --local_data_opts "--smoke true"
        --vocab_size 400 --whole_words 100
        --lm_config conf/lm_smoke.yaml
        --mixture_positions 3000
        --train_overrides "max_epoch=1 num_iters_per_epoch=2"
    )
elif [ "${smoke}" != false ]; then
    echo "$0: error: --smoke must be true or false" >&2
    exit 2
fi
exec ./llmasr.sh "${opts[@]}" ${args[@]+"${args[@]}"}
