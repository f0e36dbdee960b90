#!/usr/bin/env bash
# Stage 1: write the sentences and speak them into data/. Options go to local/data.py (see --help
# there), for example: local/data.sh --smoke true
set -euo pipefail

. ./path.sh

exec python3 local/data.py "$@"
