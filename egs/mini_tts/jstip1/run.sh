#!/usr/bin/env bash
# JSTIP on mini_tts: joint training on speech, text and both interleaved (arXiv 2607.01733), with its controls. Speech by
# espeak-ng; nothing is downloaded. Options are those of llmasr.sh; --smoke for a few utterances and steps.
set -euo pipefail

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
    --tts_text data/domain_tts/text
    --tts_voices "en-us en-us+f2 en-gb+m3 en-gb+f4"
    --texts "domain=data/text/domain.txt"
    # What the phase `joint` takes in its steps, so that every mixture is gone through about once.
    --mixture_positions 410000
    --questions "mc=data/questions/mc.jsonl sqa=data/questions/sqa.jsonl"
    --questions_config conf/questions.yaml
    --lm_config conf/lm.yaml
    # Without the names of the domain: a piece that training speech never has cannot be recognised.
    --tokenizer_text data/lm/tokenizer.txt
    --lm_valid_text "everyday=data/lm/valid.txt domain=data/lm/valid_domain.txt"
    --smoke_opts "--local_data_opts=--smoke=true --vocab_size 400 --whole_words 100 --mixture_positions 3000"
)
exec ./llmasr.sh "${opts[@]}" "$@"
