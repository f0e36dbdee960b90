#!/usr/bin/env bash
# Stage 1: write data/ from the corpora that db.sh names. Options go to local/data.py (see --help there), for example:
# local/data.sh --datadir data --nj 2 --train_parts train-clean-100
set -euo pipefail

. ./path.sh
. ./db.sh

exec python3 local/data.py --librispeech "${LIBRISPEECH}" --librispeech_pc "${LIBRISPEECH_PC}" \
    --librispeech_books "${LIBRISPEECH_BOOKS}" --pubmed "${PUBMED}" --primock57 "${PRIMOCK57}" \
    --primock57_entities "${PRIMOCK57_ENTITIES}" --minds14 "${MINDS14}" --minds14_entities "${MINDS14_ENTITIES}" \
    --mmlu "${MMLU}" --sqa "${SQA}" --tts_command "${TTS_COMMAND}" "$@"
