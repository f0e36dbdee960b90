#!/usr/bin/env bash
# Stage 1: data directories of the corpora that db.sh names, and the texts. Options go to local/data.py (see --help
# there), for example: local/data.sh --smoke true
set -euo pipefail

. ./path.sh
. ./db.sh

exec python3 local/data.py --an4 "${AN4}" --so762 "${SO762}" --kathleen "${KATHLEEN}" --s2i "${S2I}" --text "${TEXT}" "$@"
