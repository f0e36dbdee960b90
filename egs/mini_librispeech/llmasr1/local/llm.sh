#!/usr/bin/env bash
# The LLM, before anything asks for it: Gemma with only the tokens of the recipe's text, in llm/gemma (smoke runs: in
# llm_smoke/gemma). Nothing is done again for the same model and text, nor where db.sh has another LLM.
set -euo pipefail

# begin options
smoke=false # of little text
size=16384  # tokens
# end options
. ./utils/parse_options.sh
. ./path.sh
. ./db.sh

[ -z "${LLM}" ] || exit 0
if [ ! -f "${GEMMA}/config.json" ]; then
    echo "$0: error: GEMMA=${GEMMA} is no model; get it with \`make models\`, or set GEMMA, or LLM to another one (db.sh)" >&2
    exit 1
fi
home=llm
! ${smoke} || home=llm_smoke
TTS_FROM='' ./local/data.sh --datadir "${home}/data" --smoke "${smoke}"
python3 -m espnet_llmvq lm trim --llm "${GEMMA}" --texts "${home}/data/lm/train.txt" --size "${size}" --out "${home}/gemma"
