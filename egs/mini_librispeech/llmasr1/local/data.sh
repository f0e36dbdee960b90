#!/usr/bin/env bash
# Stage 1: write data/ from the corpora and texts of db.sh. Options go to local/data.py (see --help there).
set -euo pipefail

# shellcheck disable=SC1091
. ./path.sh
# shellcheck disable=SC1091
. ./db.sh

# shellcheck disable=SC2086
exec python3 local/data.py --mini_librispeech "${MINI_LIBRISPEECH}" --url "${MINI_LIBRISPEECH_URL}" \
    --commonvoice "${COMMONVOICE}" --an4 "${AN4}" --s2i "${S2I}" --arctic "${ARCTIC}" --alnum "${ALNUM}" \
    --so762 "${SO762}" --fsdd "${FSDD}" --lm_text ${LM_TEXT} --tts_from ${TTS_FROM} \
    ${TEST_UTTERANCES:+--test_utterances "${TEST_UTTERANCES}"} \
    ${DEV_UTTERANCES:+--dev_utterances "${DEV_UTTERANCES}"} "$@"
