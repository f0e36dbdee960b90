#!/usr/bin/env bash
# LibriSpeech, 960 h: the systems of arXiv 2506.05706 at their own scale. Options are those of llmasr.sh. Paths are in
# db.sh; ENCODER=whisper ./run.sh takes the other encoder.
set -euo pipefail

. ./path.sh
. ./db.sh
case ${ENCODER} in
wavlm) encoder=${WAVLM} cards=conf/systems.yaml ;;
whisper) encoder=${WHISPER} cards=conf/whisper/systems.yaml ;;
*)
    echo "$0: error: ENCODER=${ENCODER}: wavlm or whisper" >&2
    exit 2
    ;;
esac
test_sets="test_clean:id test_other:id"
for corpus in COMMONVOICE TEDLIUM3 VOXPOPULI GIGASPEECH AMI EARNINGS22 SPGISPEECH; do
    [ -z "${!corpus}" ] || test_sets+=" test_${corpus,,}:ood"
done
opts=(
    --train_set train
    --valid_set valid
    --test_sets "${test_sets}"
    --systems "slam lora lora_long hard soft_k10"
    --baseline lora
    --cards "${cards}"
    --expdir "exp/${ENCODER}"
    --pretrained_encoder "${encoder}"
    --ctc_head false
    --llm "${LLM}"
    --prompt "USER: {speech} Transcribe speech to text. ASSISTANT: {text}"
    --cache_encoder false
    --audio_format flac
    --max_duration 30
    --num_beams 4
    --normaliser softvq
    --title "librispeech, ${ENCODER}"
    --ngpu 1
    --smoke_opts "--ngpu=0"
)
exec ./llmasr.sh "${opts[@]}" "$@"
