#!/usr/bin/env bash
# Stage 1: write data/ from the corpora of db.sh. Options go to local/data.py (see --help there), for example:
# local/data.sh --train_parts train-clean-100
set -euo pipefail

# shellcheck disable=SC1091
. ./path.sh
# shellcheck disable=SC1091
. ./db.sh

exec python3 local/data.py --librispeech "${LIBRISPEECH}" --url "${LIBRISPEECH_URL}" --commonvoice "${COMMONVOICE}" \
    --tedlium3 "${TEDLIUM3}" --voxpopuli "${VOXPOPULI}" --gigaspeech "${GIGASPEECH}" --ami "${AMI}" \
    --earnings22 "${EARNINGS22}" --spgispeech "${SPGISPEECH}" "$@"
