#!/usr/bin/env bash
# LLM-based speech recognition, from data to a table of in-domain and out-of-domain word error rates.
# A recipe's run.sh calls this script with its sets and systems. Finished work is skipped, so a run that was
# killed continues where it was. `--stage N` starts at a stage: stage 12 decodes again what was decoded.
#
# Stages: 1 data, 2 speed perturbation and synthesis, 3 format audio, 4 filter, 5 tokenizer and LLM directory,
# 6 language model, 7 speech encoder, 8 word alignment, 9 sequences, 10 positions, mixtures and encoder frames,
# 11 train systems, 12 decode, 13 score, 14 analyse, 15 report; and when asked for with --stop_stage: 16 pack, 17 upload.

set -euo pipefail

# begin options
stage=1                    # first stage
stop_stage=15              # last stage
skip_stages=               # stages to leave out, e.g. "2 8"
python=python3             # interpreter, after path.sh
nj=$(env -u OMP_NUM_THREADS nproc)  # parallel jobs
train_jobs=                # phases that train at once, on a CPU; they share --nj threads (empty: --nj phases of one thread)
ngpu=0                     # GPUs of a machine (0: CPU)
num_nodes=1                # machines that train together (stages 7 and 11), each with --ngpu GPUs
hosts=                     # their names, reached by ssh: "host1,host2" or "host1:0:1,host2:0:1" (with GPU numbers)
datadir=data               # Kaldi data directories
dumpdir=dump               # formatted audio and sequences
expdir=exp                 # models, hypotheses, results
seed=1                     # of the systems; other than 1 it becomes part of their directories
local_data_opts=           # passed to local/data.sh
analyse_opts=              # passed to llmvq analyse, e.g. "--utterances 500 --examples 10"
score_opts=                # passed to llmvq results, e.g. "--replicates 2000 --empty_ref drop"
pack_system=               # the system that stage 16 packs, and stage 17 uploads
pack_dir=                  # where; empty: packed/SYSTEM in the directory of the results
pack_opts=                 # passed to llmvq pack, e.g. "--max_mb 500"
hf_repo=                   # OWNER/NAME on the Hugging Face hub, or a local directory that begins with / or .
dry_run=false              # say what would be trained and how, and stop; nothing is written
estimate=false             # say what the trainings cost (parameters, memory, hours), and stop; nothing is written
estimate_opts=             # passed to llmvq estimate, e.g. "--gpu h100 --seconds 8 --corpus_hours 960"
json=                      # file for what --dry_run or --estimate say
smoke=false                # all stages on a handful of utterances with tiny models, in data_smoke, dump_smoke, exp_smoke
smoke_opts="--vocab_size 160 --whole_words 40"  # options that win in smoke runs; no blanks in their values
# end options

# All that a run starts ends with it. The process that was called keeps its number, and waits.
[ -n "${LLMASR_RUN:-}" ] || LLMASR_RUN=$$ exec ./utils/together.sh "${BASH}" "$0" "$@"
run=${LLMASR_RUN}
unset LLMASR_RUN

run_args=("$@")
plan_args=() # options that are not above: those of `llmvq plan`
. ./utils/parse_options.sh
. ./path.sh
cmd_sh=${MAIN_ROOT}/egs/TEMPLATE/llmasr1/cmd.sh
[ ! -f cmd.sh ] || cmd_sh=./cmd.sh
# shellcheck source=cmd.sh
. "${cmd_sh}"

datadir=${datadir%/} dumpdir=${dumpdir%/} expdir=${expdir%/}
if ${smoke}; then
    read -ra words <<<"${smoke_opts}"
    set -- ${words[@]+"${words[@]}"}
    . ./utils/parse_options.sh
    datadir+=_smoke dumpdir+=_smoke expdir+=_smoke
fi

log() { echo "$(date '+%Y-%m-%dT%H:%M:%S') (llmasr.sh) $*"; }
die() {
    echo "llmasr.sh: error: $*" >&2
    exit 1
}
llmvq() { "${python}" -m espnet_llmvq "$@"; }
# The same through a command of cmd.sh: on COMMAND LOG WORD... On this machine it runs as it is.
on() {
    if [ "${cmd_backend}" = local ]; then
        llmvq "${@:3}"
    else
        # shellcheck disable=SC2086
        $1 --gpu "${ngpu}" --num_threads "${nj}" --follow "$2" "${python}" -m espnet_llmvq "${@:3}"
    fi
}
# Training on several machines goes through ESPnet's launcher: train_on LOG OPTION...
train_on() {
    local log=$1 submit=${cuda_cmd} where=(--num_nodes "${num_nodes}") words=("${python}" -m espnet_llmvq train "${@:2}")
    if [ "${num_nodes}" -eq 1 ] && [ -z "${hosts}" ]; then
        on "${cuda_cmd}" "${log}" train "${@:2}"
        return
    fi
    # It goes by the name of the command.
    [ "${cmd_backend}" != slurm ] || submit=utils/slurm.pl
    if [ -n "${hosts}" ]; then
        where=(--host "${hosts}")
        # To another machine it passes the words as they are, in one line of bash.
        mapfile -t words < <(printf '%q\n' "${words[@]}")
    fi
    "${python}" -m espnet2.bin.launch --cmd "${submit}" --log "${log}" --ngpu "${ngpu}" "${where[@]}" --envfile path.sh \
        --init_file_prefix "${expdir}/.meeting/" -- "${words[@]}"
}
# failed WHAT [LOG]: with the end of its log.
failed() {
    [ $# -eq 1 ] || tail -n 20 "$2" >&2
    die "$1 failed; its message is above${2:+ and in $2}"
}
# On CPUs, a command beside those that follow: background COMMAND [ARG...]; then finish WHAT [LOG], which waits for all.
jobs=()
background() {
    if [ "${nj}" -gt 1 ] && [ "${ngpu}" -eq 0 ]; then
        "$@" &
        jobs+=("$!")
    else
        "$@"
    fi
}
finish() {
    local job
    for job in ${jobs[@]+"${jobs[@]}"}; do wait "${job}" || failed "$@"; done
    jobs=()
}
# Say in the locked file $1 who holds it.
sign() { echo "process ${run} on ${HOSTNAME}, since $(date '+%F %T')," >"$1"; }
# Is it the turn of this stage? It is said then: turn NUMBER TEXT
turn() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] && [[ " ${skip_stages} " != *" $1 "* ]] || return 1
    [ $# -eq 1 ] || log "Stage $1: $2"
}

[[ ${nj} =~ ^[1-9][0-9]*$ ]] || die "--nj ${nj}: give a whole number of 1 or more"
[[ ${train_jobs:=${nj}} =~ ^[1-9][0-9]*$ ]] || die "--train_jobs ${train_jobs}: give a whole number of 1 or more"
for number in stage stop_stage ${skip_stages:+skip_stages}; do
    for value in ${!number}; do
        if ! [[ ${value} =~ ^[0-9]+$ ]] || [ "${value}" -lt 1 ] || [ "${value}" -gt 17 ]; then
            die "--${number} ${value}: stages are 1 to 17"
        fi
    done
done
[ "${stop_stage}" -lt 16 ] || [ -n "${pack_system}" ] || die "stages 16 and 17 need --pack_system, one of the systems"
[ "${stop_stage}" -lt 17 ] || [ -n "${hf_repo}" ] || die "stage 17 needs --hf_repo, OWNER/NAME or a local directory"
[ "${num_nodes}" -eq 1 ] || [ -n "${hosts}" ] || [ "${cmd_backend}" != local ] ||
    die "--num_nodes ${num_nodes}: name the machines with --hosts, or set cmd_backend to a queueing system"
[ -z "${hosts}" ] || [ "${num_nodes}" -eq 1 ] || die "--hosts says how many machines there are; leave out --num_nodes"

plan_args+=(--datadir "${datadir}" --dumpdir "${dumpdir}" --expdir "${expdir}" --seed "${seed}" --smoke "${smoke}"
    --ngpu "${ngpu}" --num_nodes "${num_nodes}" --script_options "${script_options}")
# A recipe that makes an LLM of another one has it before the plan, which asks for it.
if [ -x local/llm.sh ] && ! ${dry_run}; then ./local/llm.sh --smoke "${smoke}"; fi
# A mistyped option or name fails here, before anything is written.
room=$(mktemp -d)
plan=${room}/experiment.json
trap 'rm -rf "${room}"' EXIT
llmvq plan --out "${plan}" "${plan_args[@]}"
if ${dry_run} || ${estimate}; then
    ! ${dry_run} || llmvq train --exp "${plan}" --dry_run ${json:+--json "${json}"}
    # shellcheck disable=SC2086
    ! ${estimate} || llmvq estimate --exp "${plan}" ${json:+--json "${json}"} ${estimate_opts}
    exit 0
fi
results=${expdir}
[ "${seed}" -eq 1 ] || results=${expdir}/seed${seed}
[ ! -e "${results}/experiment.json" ] || grep -q '"trainings":' "${results}/experiment.json" ||
    die "${results}/experiment.json: is there, and not made here; move it away"
mkdir -p "${results}"
# Held by this script and by all it starts, so that a part that outlives a killed run still holds it.
exec 9>>"${expdir}/.lock"
if ! flock --nonblock 9; then
    holder=$(<"${expdir}/.lock")
    if [[ ${holder} =~ ^"process "([0-9]+)" on ${HOSTNAME}," ]] && [ ! -e "/proc/${BASH_REMATCH[1]}" ]; then
        log "waiting for ${expdir}: ${holder} was killed; what it started is ending"
        flock --wait 15 9 || holder+=" which was killed; what it started goes on,"
    fi
    flock --nonblock 9 || die "another run works in ${expdir}: ${holder:-unknown,} wait for it or stop it." \
        "Where you know that it is gone, machine and all, remove ${expdir}/.lock and run again"
fi
sign "${expdir}/.lock"
echo "./${0##*/}${run_args[*]+$(printf ' %q' "${run_args[@]}")}" >>"${results}/commands.log"
cp "${plan}" "${results}/.experiment.json.tmp" && mv "${results}/.experiment.json.tmp" "${results}/experiment.json"
pack_dir=${pack_dir:-${results}/packed/${pack_system}}
exp=(--exp "${results}")
# A mistyped key fails now, not after an hour of training.
if [ "${stop_stage}" -ge 7 ] && [ "${stage}" -le 11 ]; then llmvq train "${exp[@]}" --check; fi
# Asked to begin at a stage that is done: do it again.
redo() { [ "${stage}" -ne "$1" ] || echo --redo; }

if turn 1 "data preparation -> ${datadir}"; then
    # Runs with other experiment directories wait here, and find the data made.
    mkdir -p "${datadir}"
    exec 8>>"${datadir}/.lock"
    flock --nonblock 8 || { log "waiting for ${datadir}: $(<"${datadir}/.lock") works there" && flock 8; }
    sign "${datadir}/.lock"
    # shellcheck disable=SC2086
    ./local/data.sh --datadir "${datadir}" --nj "${nj}" ${local_data_opts}
    ! ${smoke} || llmvq stage cut "${exp[@]}"
    exec 8>&-
fi
if [ "${stage}" -le 3 ]; then llmvq stage check "${exp[@]}" --nj "${nj}"; fi
if turn 2 "speed perturbation and synthesis, where asked for -> ${datadir}"; then
    llmvq stage perturb "${exp[@]}" --nj "${nj}"
fi
if turn 3 "format audio (16 kHz mono) -> ${dumpdir}"; then
    llmvq stage format "${exp[@]}" --nj "${nj}"
fi
if turn 4 "filter training and validation sets, never test sets -> ${dumpdir}"; then
    llmvq stage filter "${exp[@]}"
fi
if turn 5 "tokenizer -> ${expdir}/tokenizer"; then
    llmvq stage tokenizer "${exp[@]}"
fi
# The language model and the encoder need the tokenizer and nothing of each other, so they train side by side. Of one that
# is given the perplexity is measured before: both take all cores, and encoding took 2.5 times as long beside it.
if turn 6 "language model, and its perplexity -> ${expdir}/llm; log in ${expdir}/llm.log"; then
    beside=background
    grep -q '"llm": ""' "${results}/experiment.json" || beside=
    ${beside} llmvq stage lm "${exp[@]}" --ngpu "${ngpu}" --threads "${nj}" >>"${expdir}/llm.log" 2>&1 ||
        failed "stage 6" "${expdir}/llm.log"
fi
if turn 7 "speech encoder -> ${expdir}/encoder"; then
    llmvq stage encoder "${exp[@]}" --ngpu "${ngpu}" --threads "${nj}"
    # All cores are its own, unless stage 6 runs beside it.
    threads=${nj}
    [ ${#jobs[@]} -eq 0 ] || threads=1
    train_on "${expdir}/log/encoder.log" "${exp[@]}" --encoder --threads "${threads}"
fi
finish "stage 6" "${expdir}/llm.log"
! turn 6 || tail -n 8 "${expdir}/llm.log"
if turn 8 "word alignment, where it is needed -> ${expdir}/align"; then
    llmvq stage align "${exp[@]}" --ngpu "${ngpu}" --threads "${nj}"
fi
if turn 9 "sequences, those of mixtures too -> ${dumpdir}"; then
    llmvq stage sequences "${exp[@]}"
fi
if turn 10 "LLM positions, mixtures, encoder frames -> ${expdir}"; then
    background on "${cuda_cmd}" "${expdir}/log/encode.log" stage encode "${exp[@]}" --ngpu "${ngpu}" --threads "${nj}"
    llmvq stage positions "${exp[@]}"
    llmvq stage mixtures "${exp[@]}"
    finish "encoding"
fi
if turn 11 "train the systems -> ${expdir}"; then
    at_once=$((train_jobs < nj ? train_jobs : nj))
    train_on "${expdir}/log/train.log" "${exp[@]}" --nj "${at_once}" --threads $((nj / at_once))
fi
if turn 12 "decode, and put questions -> ${expdir}"; then
    # shellcheck disable=SC2046
    on "${decode_cmd}" "${expdir}/log/decode.log" decode "${exp[@]}" --nj "${nj}" --ngpu "${ngpu}" $(redo 12)
    llmvq rescore "${exp[@]}"
    # shellcheck disable=SC2046
    llmvq ask "${exp[@]}" --nj "${nj}" --ngpu "${ngpu}" $(redo 12)
fi
if turn 13 "score -> ${results}/RESULTS.md"; then
    # Empty hypotheses are a fault of the system, not of the files: the audit counts them.
    # shellcheck disable=SC2086
    llmvq results "${exp[@]}" ${score_opts}
fi
if turn 14 "analyse -> ${results}/analysis"; then
    # shellcheck disable=SC2046,SC2086
    llmvq analyse "${exp[@]}" --nj "${nj}" --ngpu "${ngpu}" $(redo 14) ${analyse_opts}
fi
if turn 15 "report -> ${results}/report/report.html"; then
    llmvq report "${exp[@]}"
fi
if turn 16 "pack ${pack_system} -> ${pack_dir}"; then
    # What a recipe knows of its data, for the model card, and licences that go with the model.
    about=()
    [ ! -f conf/card.md ] || about+=(--card conf/card.md)
    [ ! -d conf/licences ] || about+=(--licence conf/licences/*)
    # shellcheck disable=SC2086
    llmvq pack "${exp[@]}" --system "${pack_system}" --out "${pack_dir}" ${about[@]+"${about[@]}"} ${pack_opts}
fi
if turn 17 "upload ${pack_dir} -> ${hf_repo}"; then
    if [[ ${hf_repo} == [/.]* ]]; then
        llmvq upload "${pack_dir}" --to "${hf_repo}"
    else
        llmvq upload "${pack_dir}" --repo "${hf_repo}"
    fi
fi
log "finished"
