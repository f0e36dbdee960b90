#!/usr/bin/env bash
# Stage 1 of a recipe without data preparation of its own: data directories and LM text from what db.sh names.
#
# db.sh sets DATA, an array of paths with the set as key, HELD_OUT, sets to hold out of train (valid, test), and TEXT,
# a file of more text. Of a held-out test set there is also a copy in rooms and noise, test_noise.
set -euo pipefail

# begin options
datadir=data   # where to write
nj=2           # parallel jobs
strip_tags=false  # leave out the tags of a recogniser in front of texts
# end options
. ./utils/parse_options.sh
. ./path.sh
# shellcheck source=/dev/null
. ./db.sh

for name in "${!DATA[@]}"; do
    held_out=()
    if [ "${name}" = train ] && [ -n "${HELD_OUT}" ]; then
        held_out=(--held_out)
        for part in ${HELD_OUT}; do held_out+=("${datadir}/${part}"); done
    fi
    # The check of stage 1 says what audio comes twice.
    llmvq data import --repeated_audio true --strip_tags "${strip_tags}" "${DATA[${name}]}" "${datadir}/${name}" ${held_out[@]+"${held_out[@]}"}
done
if [[ " ${HELD_OUT} " == *" test "* ]]; then
    llmvq data perturb --noise "pink babble" --snr 5 15 --rt60 0.2 0.4 --suffix=-noise \
        --nj "${nj}" "${datadir}/test" "${datadir}/test_noise"
fi

mkdir -p "${datadir}/lm"
{
    cut -d " " -f 2- "${datadir}/train/text"
    # Without byte order mark and Windows line ends, and unpacked.
    [ -z "${TEXT}" ] || python3 -c 'import sys
from espnet_llmvq.data.manifest import read_lines
print("\n".join(read_lines(sys.argv[1])))' "${TEXT}"
} >"${datadir}/lm/train.txt.tmp"
mv "${datadir}/lm/train.txt.tmp" "${datadir}/lm/train.txt"
cut -d " " -f 2- "${datadir}/valid/text" >"${datadir}/lm/valid.txt.tmp"
mv "${datadir}/lm/valid.txt.tmp" "${datadir}/lm/valid.txt"
