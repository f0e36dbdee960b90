#!/usr/bin/env bash
# Stage 1: write stories and medical texts, and speak them. Options go to local/data.py (see --help there), for
# example: local/data.sh --datadir data --nj 2 --smoke true
set -euo pipefail

. ./path.sh

exec python3 local/data.py "$@"
