#!/usr/bin/env bash
# Coffee orders from text alone: real speech of other domains, and written text about ordering coffee. Set CORPORA, or the
# variables of db.sh. Options are those of llmasr.sh; --smoke for a few utterances and steps.
set -euo pipefail

opts=(
    --train_set train
    --valid_set valid
    --test_sets "test_so762:id test_an4:id test_coffee:ood"
    --systems "ctc ctc_lm asr_only_equal text text_mixed tts tts_mixed"
    --baseline asr_only_equal
    --augment_cache true
    --vocab_size 300
    --whole_words 100
    --reserved_tokens "<N>"
    --tts_text data/domain_tts/text
    --tts_voices "en-us en-us+f2 en-gb+m3 en-gb+f4"
    --texts "domain=data/text/domain.txt"
    # What the phase `joint` takes in its steps, so that every mixture is gone through about once.
    --mixture_positions 410000
    --lm_config conf/lm.yaml
    # Without the words of the domain: a piece that training speech never has cannot be recognised.
    --tokenizer_text data/lm/tokenizer.txt
    --lm_valid_text "valid=data/lm/valid.txt domain=data/lm/valid_domain.txt"
    --smoke_opts "--local_data_opts=--smoke=true --vocab_size 200 --whole_words 40 --mixture_positions 3000"
)
exec ./llmasr.sh "${opts[@]}" "$@"
