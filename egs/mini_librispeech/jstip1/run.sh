#!/usr/bin/env bash
# JSTIP (arXiv 2607.01733) on Whisper base and Gemma: text of domains beside five hours of read books, tested on what is said
# in these domains. Encoder and LLM are those of llmasr1. Paths are in db.sh. Options are those of llmasr.sh; --smoke for a few
# utterances and steps.
set -euo pipefail

. ./path.sh
. ./db.sh

die() {
    echo "run.sh: error: $*" >&2
    exit 1
}
encoder=${ENCODER} llm=${LLM} first="./run.sh --stop_stage 7"
if [[ " $* " =~ " --smoke "(true )?|" --smoke=true " ]] && ! [[ " $* " =~ " --smoke false " ]]; then
    encoder=${ENCODER_SMOKE} llm=${LLM_SMOKE} first="./run.sh --smoke --stop_stage 7"
fi
if ! [[ " $* " =~ " --help "|" -h "|" --encoder_file"|" --encoder-file" ]]; then
    for file in "${encoder}" "$(dirname "${encoder}")/config.yaml" "${llm}/config.json"; do
        [ -f "${file}" ] || die "${file} is not there; train encoder and LLM first, with the same variables:" \
            "(cd ../llmasr1 && ${first}); or set ENCODER and LLM to others (db.sh)"
    done
fi

# shellcheck disable=SC2086
found=$(python3 local/domain.py s2i="${S2I}" alnum="${ALNUM}" medquad="${MEDQUAD}" mts_dialog="${MTS_DIALOG}" ${DOMAINS})
mapfile -t of_domains <<<"${found}"
[ -n "${of_domains[0]}" ] || die "none of the domains '${DOMAINS}' has its corpora; set CORPORA, or see db.sh"
test_sets="test_libri:id"
if [ "${MINI_LIBRISPEECH}" = download ] || [ -d "${MINI_LIBRISPEECH}/LibriSpeech/dev-clean-2" ] || [ -d "${MINI_LIBRISPEECH}/dev-clean-2" ]; then
    test_sets+=" dev_clean_2:id"
fi
lm_valid_text="valid=data/lm/valid.txt"
for name in ${of_domains[0]}; do lm_valid_text+=" ${name}=data/domains/${name}/valid.txt"; done

opts=(
    --train_set train
    --valid_set valid
    --test_sets "${test_sets} ${of_domains[1]}"
    --systems core
    --baseline asr_only_equal
    --encoder_file "${ENCODER}"
    --llm "${LLM}"
    --train_jobs 1
    --texts "domain=data/text/domain.txt"
    --tts_text data/domain_tts/text
    --tts_voices "en-us en-us+f2 en-gb+m3 en-gb+f4"
    # What the phase `joint` takes in its steps, so that every mixture is gone through about once.
    --mixture_positions 540000
    # That of llmasr1, whose search this is too.
    --prompt "speech: {speech} text: {text}"
    --num_beams 1
    --draft ctc
    --ctc_weight valid
    --max_duration 30
    --normaliser whisper_english
    --set_normalisers "${of_domains[2]:-}"
    --lm_valid_text "${lm_valid_text}"
    --smoke_opts "--local_data_opts=--smoke=true --llm=${LLM_SMOKE} --encoder_file=${ENCODER_SMOKE} --mixture_positions=4000"
)
exec ./llmasr.sh "${opts[@]}" "$@"
