#!/usr/bin/env bash
# Stage 1: write data/ from the corpora and texts of db.sh. Options go to local/data.py (see --help there).
set -euo pipefail

# shellcheck disable=SC1091
. ./path.sh
# shellcheck disable=SC1091
. ./db.sh

whisper=()
[ ! -f "${WHISPER:-}/tokenizer.json" ] || whisper=(--whisper "${WHISPER}")
# shellcheck disable=SC2086
exec python3 local/data.py --domains ${DOMAINS} --mini_librispeech "${MINI_LIBRISPEECH}" --url "${MINI_LIBRISPEECH_URL}" \
    --s2i "${S2I}" --alnum "${ALNUM}" --medquad "${MEDQUAD}" --mts_dialog "${MTS_DIALOG}" \
    ${whisper[@]+"${whisper[@]}"} \
    ${TEST_UTTERANCES:+--test_utterances "${TEST_UTTERANCES}"} "$@"
