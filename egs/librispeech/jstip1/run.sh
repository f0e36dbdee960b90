#!/usr/bin/env bash
# JSTIP at the scale of public corpora: joint training on speech, text and both interleaved (arXiv 2607.01733), with
# stand-ins for its data. db.sh names corpora and models. Options are those of llmasr.sh; --smoke for a few utterances
# and steps.
set -euo pipefail

. ./path.sh
. ./db.sh

missing() { echo "run.sh: $1 is not set in db.sh: $2" >&2; }
opts=()
test_sets=
for part in test-clean test-other; do
    if [ -d "${LIBRISPEECH}/${part}" ] || [ -d "${LIBRISPEECH}/LibriSpeech/${part}" ]; then
        test_sets+=" ${part/-/_}:id"
    fi
done
# Without any of them, stage 1 says what is missing.
test_sets=${test_sets:- test_clean:id}
if [ -n "${PRIMOCK57}" ]; then test_sets+=" test_medical:ood"; else missing PRIMOCK57 "no test_medical"; fi
if [ -n "${MINDS14}" ]; then test_sets+=" test_banking:ood"; else missing MINDS14 "no test_banking"; fi
lm_valid_text="speech=data/lm/valid.txt"
if [ -n "${PUBMED}" ]; then
    systems=paper_b
    lm_valid_text+=" domain=data/lm/valid_domain.txt"
    opts+=(--texts "domain=data/text/pubmed.txt" --tts_text data/domain_tts/text)
    [ -z "${TTS_COMMAND}" ] || opts+=(--tts_command "${TTS_COMMAND}")
else
    systems=paper_b_speech
    missing PUBMED "no rows with domain text or synthetic speech (--systems paper_b_speech)"
fi
questions=
if [ -n "${MMLU}" ]; then questions="mc=data/questions/mmlu.jsonl"; else missing MMLU "no multiple choice"; fi
if [ -n "${SQA}" ]; then questions+=" sqa=data/questions/sqa.jsonl"; else missing SQA "no open questions"; fi
if [ -n "${LLM}" ]; then opts+=(--llm "${LLM}"); else missing LLM "a small language model is trained"; fi
[ -z "${ENCODER}" ] || opts+=(--encoder_file "${ENCODER}")

opts+=(
    --train_set train
    --valid_set valid
    --test_sets "${test_sets# }"
    --systems "${systems}"
    --baseline asr_only_equal
    # A token of Qwen2.5's that its texts do not use; [B] has <|asr|>.
    --prompt "{speech}<|fim_suffix|>{text}"
    --reserved_tokens "<|fim_middle|> <|fim_suffix|>"
    --tts_voices "en-us en-us+f2 en-gb+m3 en-gb+f4"
    --max_duration 35
    # Encoder and LLM train in phase 2; for a tenth of the tokens before it, encoding once is not worth the space.
    --cache_encoder false
    # Three times what 960 hours are: 43 million steps of 80 ms and 13 million tokens.
    --mixture_positions 168000000
    --questions "${questions# }"
    --questions_config conf/questions.yaml
    --vocab_size 5000
    --lm_valid_text "${lm_valid_text}"
    --smoke_opts "--local_data_opts=--smoke=true --encoder_config conf/encoder_smoke.yaml --vocab_size 160 \
        --mixture_positions 3000 --questions_config conf/questions_smoke.yaml"
)
exec ./llmasr.sh "${opts[@]}" "$@"
