#!/usr/bin/env bash
# LLM-based speech recognition, from data to a table of in-domain and out-of-domain word error rates.
# A recipe's run.sh calls this script with its sets and systems. Finished work is skipped, so a run that was
# killed continues where it was. `--stage N` starts at a stage: stage 12 decodes again what was decoded.
#
# Stages: 1 data, 2 speed perturbation and synthesis, 3 format audio, 4 filter, 5 tokenizer and LLM directory,
# 6 language model, 7 speech encoder, 8 word alignment, 9 sequences, 10 statistics, mixtures and encoder cache,
# 11 train systems, 12 decode, 13 score, 14 analyse, 15 report; and when asked for with --stop_stage: 16 pack, 17 upload.

set -euo pipefail

# begin options
stage=1                    # first stage
stop_stage=15              # last stage
skip_stages=               # stages to leave out, e.g. "2 8"
python=python3             # interpreter, after path.sh
nj=$(env -u OMP_NUM_THREADS nproc)  # parallel jobs
ngpu=0                     # GPUs of a machine (0: CPU)
num_nodes=1                # machines that train together (stages 7 and 11), each with --ngpu GPUs
hosts=                     # their names, reached by ssh: "host1,host2" or "host1:0:1,host2:0:1" (with GPU numbers)
accumulate=1               # parts into which batches are cut: less memory, the same optimizer steps
datadir=data               # Kaldi data directories
dumpdir=dump               # formatted audio and sequences
expdir=exp                 # models, hypotheses, results
conf_dir=conf              # holds systems.yaml, published/
seed=1                     # of the systems; other than 1 it becomes part of their directories
base_seed=1                # of the language model and the encoder, which all seeds share
train_set=train            # training set
valid_set=valid            # validation set
test_sets=                 # pairs name:domain, domain id or ood, e.g. "test:id test_noise:ood"
systems=                   # rows of the table: systems and groups of them, names in conf_dir/systems.yaml
baseline=                  # the system that others are compared with; empty or absent: the first
local_data_opts=           # passed to local/data.sh
tts_text=                  # Kaldi text to speak: its audio becomes the set "tts", for mixtures; empty: none
tts_voices=en-us           # voices for it, dealt evenly
tts_command=               # another engine than espeak-ng: a template with {text} and {wav}
texts=                     # plain texts for mixtures, pairs name=file, a document a line
speed_perturb_factors=     # e.g. "0.9 1.0 1.1"; empty: none
audio_format=wav           # of converted audio: wav or flac
min_duration=0.2           # seconds; shorter training utterances are dropped
max_duration=20            # seconds; longer training utterances are dropped
prompt="USER: {speech} ASSISTANT: {text}"  # template of a sequence; "chat: {speech} ..." in the LLM's chat format
llm=                       # Hugging Face directory or hub id; empty: train one on the recipe's text
lm_train_text=             # text for the tokenizer and the language model (one sentence a line)
tokenizer_text=            # text for the tokenizer alone; empty: lm_train_text
lm_valid_text=             # held-out texts, pairs name=file
vocab_size=500             # pieces of the trained tokenizer
whole_words=0              # most frequent words that are one piece each
reserved_tokens=           # special tokens of the trained tokenizer, e.g. "<N>"
lm_config=conf/template/lm.yaml  # of the trained language model
encoder_file=              # checkpoint of a pretrained encoder; empty: train one (stage 7)
encoder_config=conf/encoder.yaml  # of the trained encoder
pretrained_encoder=        # directory or hub id of WavLM or Whisper; empty: train an encoder, or encoder_file
pretrained_layer=          # its layer: last, weighted or a number; empty: encoder_conf.layer of the phases, or last
bridge_stack=1             # encoder frames per LLM position, for the batch budget (bridge_conf.stack)
cache_encoder=true         # encode each set once and train all systems on the frames
augment_cache=false        # spoil the training set for it as in the encoder's training
align_sets=                # sets to align with the encoder's CTC (stage 8), beside those that mixtures interleave
ctms=                      # word times from elsewhere for sets that mixtures interleave, pairs set=file
interleave_overrides=      # key=value pairs laid over every form of interleaving, e.g. "silence=0.3"
context=llm                # LLM positions that a sequence of a mixture may have; llm: as many as the LLM has
mixture_positions=         # LLM positions of every mixture; empty: as many as give its first source once
num_beams=4                # beam of the LLM
ctc_weight=0               # of the CTC score in choosing from n-best lists, 0 to 1; "valid": chosen on the validation set
other_prompt=false         # decode sequences whose prompt is not the one of training
questions=                 # files of questions: mc=FILE[=EXAMPLES] (multiple choice), sqa=FILE (open)
questions_config=          # how questions are put, YAML; see docs/scoring.md
normaliser=basic           # none, basic, whisper_basic, whisper_english, softvq
set_normalisers=           # of single test sets, pairs name:normaliser, e.g. "test_phone:whisper_english"
set_metrics=               # further metrics of test sets, pairs name:metric, e.g. "qa:bleu qa:chrf"
word_lists=                # pairs name=file: also WER inside and outside of a list, e.g. of rare words
resample=utterance         # what intervals and tests resample: utterance or speaker
analyse_opts=              # passed to bin/analyse.py, e.g. "--utterances 500 --examples 10"
score_opts=                # passed to bin/results.py, e.g. "--replicates 2000 --empty_ref drop"
pack_system=               # the system that stage 16 packs, and stage 17 uploads
hf_repo=                   # OWNER/NAME on the Hugging Face hub, or a local directory that begins with / or .
train_overrides=           # key=value pairs laid over every training config, e.g. "max_epoch=1"
dry_run=false              # say what would be trained and how, and stop; nothing is written
estimate=false             # say what the trainings cost (parameters, memory, hours), and stop; nothing is written
estimate_opts=             # passed to bin/estimate.py, e.g. "--gpu h100 --seconds 8 --corpus_hours 960"
json=                      # file for what --dry_run or --estimate say
title=                     # of the report; empty: the directory above the recipe's
smoke=false                # all stages on a handful of utterances with tiny models, in data_smoke, dump_smoke, exp_smoke
smoke_opts="--vocab_size 160 --whole_words 40"  # options that win in smoke runs; no blanks in their values
# end options

run_args=("$@")
. ./utils/parse_options.sh
. ./path.sh
cmd_sh=${MAIN_ROOT}/egs/TEMPLATE/llmasr1/cmd.sh
[ ! -f cmd.sh ] || cmd_sh=./cmd.sh
# shellcheck source=cmd.sh
. "${cmd_sh}"

if ${smoke}; then
    read -ra words <<<"${smoke_opts}"
    set -- ${words[@]+"${words[@]}"}
    . ./utils/parse_options.sh
    # Paths in the data directory lead into the smoke run's.
    for option in lm_train_text lm_valid_text tokenizer_text tts_text texts questions word_lists; do
        moved=
        for word in ${!option}; do
            path=${word##*=}
            [[ ${path} != "${datadir}"/* ]] || word=${word%"${path}"}${datadir}_smoke${path#"${datadir}"}
            moved+=${moved:+ }${word}
        done
        printf -v "${option}" '%s' "${moved}"
    done
    datadir+=_smoke dumpdir+=_smoke expdir+=_smoke
    lm_config=conf/template/lm_smoke.yaml
    # Two steps, of small batches: batch_bins counts where the recipe's batches are of so many positions.
    train_overrides="max_epoch=1 num_iters_per_epoch=2 accum_grad=1 batch_bins=600 ${train_overrides}"
    # An encoder that has learnt nothing finds no pauses: segments end after every word.
    interleave_overrides="silence=0 ${interleave_overrides}"
fi
title=${title:-$(basename "$(dirname "${PWD}")")}

log() { echo "$(date '+%Y-%m-%dT%H:%M:%S') (llmasr.sh) $*"; }
die() {
    echo "llmasr.sh: error: $*" >&2
    exit 1
}
llmvq() { "${python}" -m espnet_llmvq "$@"; }
# The same through a command of cmd.sh: on COMMAND LOG NAME [ARG...]. On this machine it runs as it is.
on() {
    if [ "${cmd_backend}" = local ]; then
        llmvq "${@:3}"
    else
        # shellcheck disable=SC2086
        $1 --gpu "${ngpu}" --num_threads "${nj}" --follow "$2" "${python}" -m espnet_llmvq "${@:3}"
    fi
}
# Run this stage?
stage_on() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] && [[ " ${skip_stages} " != *" $1 "* ]]
}
# Is file $1 there and no older than all the others?
fresh() {
    local file=$1 other
    [ -e "${file}" ] || return 1
    for other in "${@:2}"; do [ "${other}" -nt "${file}" ] && return 1; done
    return 0
}
# Is it known that FILE was made with these OPTIONS? `made_with FILE OPTIONS`; `note_options FILE OPTIONS` when it was.
made_with() { [ "$(cat "$1.options" 2>/dev/null)" = "$2" ]; }
note_options() { printf '%s\n' "$2" >"$1.options.tmp" && mv "$1.options.tmp" "$1.options"; }

for number in stage stop_stage ${skip_stages:+skip_stages}; do
    for value in ${!number}; do
        if ! [[ ${value} =~ ^[0-9]+$ ]] || [ "${value}" -lt 1 ] || [ "${value}" -gt 17 ]; then
            die "--${number} ${value}: stages are 1 to 17"
        fi
    done
done
[ -n "${test_sets}" ] || die "--test_sets is empty; call ./run.sh, which names them"
[ -n "${systems}" ] || die "--systems is empty; call ./run.sh, which names them"
! stage_on 16 || [ -n "${pack_system}" ] || die "stage 16 needs --pack_system, one of the systems"
! stage_on 17 || [ -n "${pack_system}" ] || die "stage 17 needs --pack_system, one of the systems"
! stage_on 17 || [ -n "${hf_repo}" ] || die "stage 17 needs --hf_repo, OWNER/NAME or a local directory"
[ -z "${pretrained_encoder}" ] || [ -z "${encoder_file}" ] || die "give --pretrained_encoder or --encoder_file, not both"
[ -n "${pretrained_encoder}" ] || [ -z "${pretrained_layer}" ] || die "--pretrained_layer is for --pretrained_encoder"
# Names are checked, and groups replaced by their systems.
systems=$(llmvq recipe systems --conf_dir "${conf_dir}" --systems "${systems}" ${baseline:+--baseline "${baseline}"} \
    ${pretrained_encoder:+--no_ctc} | cut -d '|' -f 1 | paste -s -d ' ' -)
tts_set=${tts_text:+tts}
text_names=
for pair in ${texts}; do
    [[ ${pair} == ?*=?* ]] || die "--texts ${pair}: expected NAME=FILE"
    text_names+=" ${pair%%=*}"
done
read -ra overrides <<<"${interleave_overrides}"
interleave_opts=()
for pair in ${overrides[@]+"${overrides[@]}"}; do interleave_opts+=(--override "${pair}"); done
# Mixtures of the systems, lines NAME|SET/FORM=SHARE ..., and their sources SET/FORM, each once.
mixtures=$(llmvq recipe mixtures --conf_dir "${conf_dir}" --systems "${systems}" --sets "${train_set} ${tts_set}" --texts "${text_names}" \
    ${interleave_opts[@]+"${interleave_opts[@]}"})
sources=$(cut -d '|' -f 2 <<<"${mixtures}" | tr ' ' '\n' | sed 's/=.*//' | sort -u)
# A run of fewer systems than run.sh names may lack its baseline.
[[ " ${systems} " == *" ${baseline:-none} "* ]] || baseline=${systems%% *}
test_names=
for pair in ${test_sets}; do
    [[ ${pair} == *:id || ${pair} == *:ood ]] || die "--test_sets: ${pair} must end with :id or :ood"
    test_names+=" ${pair%:*}"
done
for item in ${set_normalisers} ${set_metrics} ${word_lists}; do
    [[ "${test_names} " == *" ${item%%[:=]*} "* ]] || die "${item}: ${item%%[:=]*} is not one of --test_sets${test_names}"
done
for item in ${questions}; do
    [[ ${item} == mc=?* || ${item} == sqa=?* ]] || die "--questions ${item}: expected mc=FILE[=EXAMPLES] or sqa=FILE"
done
all_sets="${train_set} ${valid_set}${test_names}"
# Sets whose word times are needed.
interleaved_sets=
for source in ${sources}; do
    [[ ${source} == */asr || ${source} == */text || " ${interleaved_sets} " == *" ${source%/*} "* ]] || interleaved_sets+=" ${source%/*}"
done
for pair in ${ctms}; do
    [[ " ${train_set} ${tts_set} " == *" ${pair%%=*} "* ]] || die "--ctms ${pair}: ${pair%%=*} is none of ${train_set} ${tts_set}"
    [[ ${pair} == ?*=?* ]] || die "--ctms ${pair}: expected SET=FILE"
done
read -ra overrides <<<"${train_overrides}"
config_opts=(--conf_dir "${conf_dir}" --ngpu "${ngpu}" --accumulate "${accumulate}")
for pair in ${overrides[@]+"${overrides[@]}"}; do config_opts+=(--override "${pair}"); done
train_opts=(--expdir "${expdir}" "${config_opts[@]}")
if ! ${dry_run} && ! ${estimate}; then
    mkdir -p "${expdir}"
    # Held by this script and by all it starts, so that a part that outlives a killed run still holds it.
    exec 9>"${expdir}/.lock"
    flock --nonblock 9 || die "another run, or what a killed one left running, works in ${expdir}: wait for it or stop it"
    echo "$0 ${run_args[*]}" >>"${expdir}/commands.log"
fi
log "systems: ${systems}; sets: ${all_sets}; nj ${nj}, ngpu ${ngpu}, seed ${seed}"

train_dir=${dumpdir}/${train_set}
sp_set=${train_set}
[ -z "${speed_perturb_factors}" ] || sp_set=${train_set}_sp
lm_dir=${expdir}/llm
if [ -z "${llm}" ]; then
    llm=${lm_dir}
    own_llm=true
    tokenizer=${expdir}/tokenizer
    [ -n "${lm_train_text}" ] || lm_train_text=${datadir}/lm/train.txt
else
    own_llm=false
    tokenizer=${llm}
fi
own_encoder=true
encoder_dir=${expdir}/encoder
pretrained_opts=()
if [ -n "${pretrained_encoder}" ]; then
    own_encoder=false
    pretrained_opts=(--pretrained_encoder "${pretrained_encoder}")
    [ -z "${pretrained_layer}" ] || pretrained_opts+=(--pretrained_layer "${pretrained_layer}")
    encoder_config=${encoder_dir}/config.yaml
    # For the age of what is made with it; phases name the pretrained encoder itself.
    encoder_file=${encoder_dir}/model.pth
elif [ -n "${encoder_file}" ]; then
    own_encoder=false
    encoder_dir=$(dirname "${encoder_file}")
    encoder_config=${encoder_dir}/config.yaml
else
    encoder_file=${encoder_dir}/model.pth
fi

# Training (stages 7 and 11) on several machines goes through ESPnet's launcher: train_on LOG ARG...
train_on() {
    local log=$1 submit=${cuda_cmd} where=(--num_nodes "${num_nodes}") words
    shift
    if [ "${num_nodes}" -eq 1 ] && [ -z "${hosts}" ]; then
        on "${cuda_cmd}" "${log}" train "$@"
        return
    fi
    # It goes by the name of the command.
    [ "${cmd_backend}" != slurm ] || submit=utils/slurm.pl
    words=("${python}" -m espnet_llmvq train "$@")
    if [ -n "${hosts}" ]; then
        where=(--host "${hosts}")
        # To another machine it passes the words as they are, in one line of bash.
        mapfile -t words < <(printf '%q\n' "${words[@]}")
    fi
    "${python}" -m espnet2.bin.launch --cmd "${submit}" --log "${log}" --ngpu "${ngpu}" "${where[@]}" --envfile path.sh \
        --init_file_prefix "${expdir}/.meeting/" -- "${words[@]}"
}
[ "${num_nodes}" -eq 1 ] || [ -n "${hosts}" ] || [ "${cmd_backend}" != local ] ||
    die "--num_nodes ${num_nodes}: name the machines with --hosts, or set cmd_backend to a queueing system"
[ -z "${hosts}" ] || [ "${num_nodes}" -eq 1 ] || die "--hosts says how many machines there are; leave out --num_nodes"

if ${dry_run} || ${estimate}; then
    encoder_opts=(${pretrained_opts[@]+"${pretrained_opts[@]}"})
    ! ${own_encoder} || encoder_opts=(--config "${encoder_config}")
    [ -z "${json}" ] || encoder_opts+=(--json "${json}")
    plan_opts=(--llm "${llm}" --systems "${systems}" --num_nodes "${num_nodes}" ${encoder_opts[@]+"${encoder_opts[@]}"})
    plan_opts+=(--train_shape "${expdir}/stats/train_shape" --mixture_dir "${expdir}/mixtures")
    ! ${dry_run} || llmvq train --dry_run "${plan_opts[@]}" "${train_opts[@]}" --train - --valid - --valid_shape -
    if ${estimate}; then
        ${own_encoder} || [ -n "${pretrained_encoder}" ] || plan_opts+=(--encoder_file "${encoder_file}")
        ! ${own_llm} || plan_opts+=(--lm_config "${lm_config}" --vocab_size "${vocab_size}")
        ! ${cache_encoder} || plan_opts+=(--cached)
        # shellcheck disable=SC2086
        llmvq estimate "${plan_opts[@]}" "${config_opts[@]}" ${estimate_opts}
    fi
    exit 0
fi

# What says what is trained.
card_files=("${conf_dir}/systems.yaml" conf/systems.yaml conf/template/*.yaml)
# A mistyped key fails now, not after an hour of training. ESPnet takes long to load: only after a change.
checked=${expdir}/.configs_checked
check_options="${conf_dir} ${systems} ${train_overrides} ${encoder_config} ${pretrained_opts[*]-}"
if [ "${stop_stage}" -ge 7 ] && [ "${stage}" -le 11 ] &&
    ! { made_with "${checked}" "${check_options}" && fresh "${checked}" "${encoder_config}" "${card_files[@]}"; }; then
    log "checking configs"
    encoder_opts=(${pretrained_opts[@]+"${pretrained_opts[@]}"})
    ! ${own_encoder} || encoder_opts=(--config "${encoder_config}")
    llmvq train --check --llm "${llm}" --systems "${systems}" ${encoder_opts[@]+"${encoder_opts[@]}"} "${train_opts[@]}" \
        --train - --valid - --train_shape - --valid_shape -
    touch "${checked}"
    note_options "${checked}" "${check_options}"
fi

# For smoke runs: cut what local/data.sh wrote to a handful, the audio excepted.
cut_data() {
    local name most file
    for name in ${all_sets}; do
        most=8
        [ "${name}" != "${train_set}" ] || most=40
        if [ -f "${datadir}/${name}/text" ] && [ "$(wc -l <"${datadir}/${name}/text")" -gt "${most}" ]; then
            llmvq data subset "${datadir}/${name}" "${most}" "${datadir}/.cut"
            mv "${datadir}"/.cut/* "${datadir}/${name}"
            rmdir "${datadir}/.cut"
        fi
    done
    for file in ${lm_train_text} ${lm_valid_text}; do
        file=${file#*=}
        if [[ ${file} == "${datadir}"/* ]] && [ "$(wc -l <"${file}")" -gt 600 ]; then
            head -n 600 "${file}" >"${file}.tmp"
            mv "${file}.tmp" "${file}"
        fi
    done
}

if stage_on 1; then
    log "Stage 1: data preparation -> ${datadir}"
    # shellcheck disable=SC2086
    ./local/data.sh --datadir "${datadir}" --nj "${nj}" ${local_data_opts}
    ! ${smoke} || cut_data
fi
if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 1 ]; then
    for name in ${all_sets}; do
        [ -d "${datadir}/${name}" ] || die "${datadir}/${name} does not exist; stage 1 did not make it"
        if ! fresh "${datadir}/.valid_${name}" "${datadir}/${name}"/*; then
            log "validating ${datadir}/${name}"
            llmvq data validate --nj "${nj}" "${datadir}/${name}"
            touch "${datadir}/.valid_${name}"
        fi
    done
fi

if stage_on 2; then
    if [ -n "${tts_set}" ]; then
        log "Stage 2: synthesis: ${tts_text} -> ${datadir}/${tts_set}"
        llmvq data synthesise --text "${tts_text}" --voices "${tts_voices}" --seed "${base_seed}" --nj "${nj}" \
            --out "${datadir}/${tts_set}" ${tts_command:+--command "${tts_command}"}
    fi
    if [ -z "${speed_perturb_factors}" ]; then
        log "Stage 2: speed perturbation: none asked for, skipped"
    else
        log "Stage 2: speed perturbation ${speed_perturb_factors}: ${datadir}/${train_set} -> ${datadir}/${sp_set}"
        # shellcheck disable=SC2086
        llmvq data speed --nj "${nj}" "${datadir}/${train_set}" ${speed_perturb_factors} "${datadir}/${sp_set}"
    fi
fi

if stage_on 3; then
    log "Stage 3: format audio (16 kHz mono) -> ${dumpdir}"
    for name in ${sp_set} ${valid_set} ${tts_set} ${test_names}; do
        target=${name}
        [ "${name}" != "${sp_set}" ] || target=${train_set}
        suffix=
        # Training and validation sets are filtered in stage 4, test sets never.
        [[ " ${test_names} " == *" ${name} "* ]] || suffix=.unfiltered
        llmvq data format --rate 16000 --nj "${nj}" --audio_format "${audio_format}" \
            "${datadir}/${name}" "${dumpdir}/${target}${suffix}"
    done
fi

if stage_on 4; then
    log "Stage 4: filter ${train_set} and ${valid_set}${tts_set:+ and ${tts_set}}, never test sets"
    for name in ${train_set} ${valid_set} ${tts_set}; do
        llmvq data filter --min_duration "${min_duration}" --max_duration "${max_duration}" \
            "${dumpdir}/${name}.unfiltered" "${dumpdir}/${name}"
    done
fi

if stage_on 5; then
    if ${own_llm}; then
        : "${tokenizer_text:=${lm_train_text}}"
        log "Stage 5: tokenizer of ${vocab_size} pieces: ${tokenizer_text} -> ${expdir}/tokenizer"
        # shellcheck disable=SC2086
        llmvq lm tokenizer --text ${tokenizer_text} --vocab_size "${vocab_size}" --whole_words "${whole_words}" --out "${expdir}/tokenizer" \
            ${reserved_tokens:+--reserved ${reserved_tokens}}
    else
        log "Stage 5: the LLM is ${llm}, skipped"
    fi
fi

# The language model and the encoder need the tokenizer and nothing of each other, so they train side by side.
lm_job=
train_lm() {
    # shellcheck disable=SC2086
    OMP_NUM_THREADS=$1 llmvq lm train --config "${lm_config}" --train ${lm_train_text} --valid ${lm_valid_text} \
        --tokenizer "${expdir}/tokenizer" --out "${lm_dir}" --prompt "${prompt}" --seed "${base_seed}" --ngpu "${ngpu}"
}
# On CPUs, a command beside those that follow: start COMMAND [ARG...]; then finish WHAT, which waits for all of them.
jobs=()
start() {
    if [ "${nj}" -gt 1 ] && [ "${ngpu}" -eq 0 ]; then
        "$@" &
        jobs+=("$!")
    else
        "$@"
    fi
}
finish() {
    local job
    for job in ${jobs[@]+"${jobs[@]}"}; do wait "${job}" || die "$1 failed; its message is above"; done
    jobs=()
}
stop_jobs() {
    local job
    for job in ${lm_job} ${jobs[@]+"${jobs[@]}"}; do kill "${job}" 2>/dev/null || true; done
}
trap stop_jobs EXIT

if stage_on 6; then
    if ${own_llm} && ${own_encoder} && stage_on 7 && [ "${nj}" -gt 1 ]; then
        log "Stage 6: language model ${lm_config}: ${lm_train_text} -> ${lm_dir}, beside stage 7; log in ${expdir}/llm.log"
        train_lm 1 >"${expdir}/llm.log" 2>&1 &
        lm_job=$!
    elif ${own_llm}; then
        log "Stage 6: language model ${lm_config}: ${lm_train_text} -> ${lm_dir}"
        train_lm "${nj}"
    else
        log "Stage 6: held-out perplexity of ${llm}"
        # shellcheck disable=SC2086
        [ -z "${lm_valid_text}" ] || llmvq lm train --perplexity_only true --llm "${llm}" --valid ${lm_valid_text} \
            --prompt "${prompt}" --out "${expdir}/perplexity" --ngpu "${ngpu}"
    fi
fi

# Sequences of a set, when its data is newer than they are or the prompt another one.
sequences() {
    local name out made=${prompt}
    # A chat prompt is written in the format of the LLM.
    [[ ${prompt} != chat:* ]] || made+=" of ${tokenizer}"
    for name in "$@"; do
        out=${dumpdir}/${name}/sequences.jsonl
        if made_with "${out}" "${made}" && fresh "${out}" "${dumpdir}/${name}/text" "${dumpdir}/${name}/utt2num_samples"; then
            log "${out} is up to date, nothing to do"
        else
            llmvq sequences make --data_dir "${dumpdir}/${name}" --out "${out}" --prompt "${prompt}" --llm "${tokenizer}"
            note_options "${out}" "${made}"
        fi
    done
}
# LLM positions of training and validation sequences: positions STACK CONFIG DIRECTORY [SEQUENCES SHAPE]...
positions() {
    local stack=$1 config=$2 directory=$3 pairs=()
    set -- "${dumpdir}/${valid_set}/sequences.jsonl" "$3/valid_shape" "${train_dir}/sequences.jsonl" "$3/train_shape" "${@:4}"
    while [ $# -gt 0 ]; do
        fresh "$2" "$1" "${tokenizer}/tokenizer.json" || pairs+=("$1" "$2")
        shift 2
    done
    if [ ${#pairs[@]} -eq 0 ]; then
        log "${directory} is up to date, nothing to do"
    else
        llmvq sequences positions --llm "${tokenizer}" --stack "${stack}" --encoder_config "${config}" "${pairs[@]}"
    fi
}
data_opts=(--train "${train_dir}/sequences.jsonl" --valid "${dumpdir}/${valid_set}/sequences.jsonl")

if stage_on 7; then
    if ${own_encoder}; then
        log "Stage 7: speech encoder ${encoder_config}: ${train_dir} -> ${encoder_dir}"
        sequences "${train_set}" "${valid_set}"
        # One thread: on batches as small as the recipes use, a second one was measured to gain nothing.
        positions 1 "${encoder_config}" "${expdir}/encoder_stats"
        train_on "${expdir}/log/encoder.log" --config "${encoder_config}" --tag encoder --llm "${tokenizer}" "${data_opts[@]}" "${train_opts[@]}" --seed "${base_seed}" --threads 1 \
            --train_shape "${expdir}/encoder_stats/train_shape" --valid_shape "${expdir}/encoder_stats/valid_shape"
    elif [ -n "${pretrained_encoder}" ]; then
        log "Stage 7: pretrained encoder ${pretrained_encoder}, nothing to train -> ${encoder_dir}"
        llmvq pretrained_encoder "${pretrained_opts[@]}" --systems "${systems}" --conf_dir "${conf_dir}" --llm "${tokenizer}" --out "${encoder_dir}"
    else
        log "Stage 7: the encoder is ${encoder_file}, skipped"
    fi
    if [ -n "${lm_job}" ]; then
        wait "${lm_job}" || die "stage 6 failed; the end of ${expdir}/llm.log: $(tail -n 15 "${expdir}/llm.log")"
        lm_job=
        log "Stage 6: done: $(tail -n 8 "${expdir}/llm.log")"
    fi
fi

# File of word times of a set.
ctm_of() {
    local pair
    for pair in ${ctms}; do
        [ "${pair%%=*}" != "$1" ] || { echo "${pair#*=}" && return; }
    done
    echo "${expdir}/align/$1.ctm"
}
to_align=
for name in ${align_sets} ${interleaved_sets}; do
    [[ " ${to_align} " == *" ${name} "* || $(ctm_of "${name}") != "${expdir}/align/${name}.ctm" ]] || to_align+=" ${name}"
done
to_align=${to_align# }

if stage_on 8; then
    if [ -z "${to_align}" ]; then
        log "Stage 8: word alignment: no set needs it, skipped"
    else
        log "Stage 8: word alignment of ${to_align} -> ${expdir}/align"
        # shellcheck disable=SC2086
        sequences ${to_align}
        set_opts=()
        for name in ${to_align}; do
            if fresh "${expdir}/align/${name}.ctm" "${dumpdir}/${name}/sequences.jsonl" "${encoder_file}"; then
                log "${expdir}/align/${name}.ctm is up to date, nothing to do"
            else
                [ -z "${pretrained_encoder}" ] || die "${pretrained_encoder} has no CTC head to align ${name} with. Give its word times" \
                    "with --ctms ${name}=FILE (see llmvq align import), or make them with an HMM aligner and run again:" \
                    "${python} -m espnet_llmvq align make --aligner hmm --set ${dumpdir}/${name}/sequences.jsonl=${expdir}/align/${name}.ctm"
                set_opts+=(--set "${dumpdir}/${name}/sequences.jsonl=${expdir}/align/${name}.ctm")
                [ ! -f "${datadir}/${name}/words.ctm" ] || set_opts[-1]+="=${datadir}/${name}/words.ctm"
            fi
        done
        # One process for all: it takes ESPnet longer to load than a small set to be aligned.
        [ ${#set_opts[@]} -eq 0 ] || llmvq align make --encoder "${encoder_dir}" "${set_opts[@]}" --ngpu "${ngpu}" --threads "${nj}"
    fi
fi

# File of the sequences of a source SET/FORM.
source_file() {
    case $1 in
    */asr) echo "${dumpdir}/${1%/*}/sequences.jsonl" ;;
    # Not text.*, which a data directory takes for a file of its own.
    */text) echo "${dumpdir}/${1%/*}/plain.jsonl" ;;
    *) echo "${dumpdir}/$1.jsonl" ;;
    esac
}
# Positions of them.
source_shape() { echo "${expdir}/stats/${1/\//_}_shape"; }
# What is longer cannot be trained on.
context_opts=(--context "${context}" --llm "${llm}")
# Sequences of a source, from data newer than they are: make_source SET/FORM
make_source() {
    local name=${1%/*} out pair text config ctm made
    out=$(source_file "$1")
    case $1 in
    */asr) sequences "${name}" ;;
    */text)
        text=${dumpdir}/${name}/plain.txt
        if [[ " ${text_names} " == *" ${name} "* ]]; then
            for pair in ${texts}; do [ "${pair%%=*}" != "${name}" ] || text=${pair#*=}; done
        elif ! fresh "${text}" "${dumpdir}/${name}/text"; then
            # The transcripts of a set as plain text.
            cut -s -d ' ' -f 2- "${dumpdir}/${name}/text" >"${text}.tmp"
            mv "${text}.tmp" "${text}"
        fi
        made="${text} ${context_opts[*]}"
        made_with "${out}" "${made}" && fresh "${out}" "${text}" && log "${out} is up to date, nothing to do" && return
        mkdir -p "${dumpdir}/${name}"
        llmvq sequences make --builder text --text "${text}" "${context_opts[@]}" --out "${out}"
        note_options "${out}" "${made}"
        ;;
    *)
        ctm=$(ctm_of "${name}")
        made="${ctm} ${interleave_overrides} ${context_opts[*]} --bridge_stack ${bridge_stack}"
        made_with "${out}" "${made}" &&
            fresh "${out}" "${card_files[@]}" "${ctm}" "${dumpdir}/${name}/text" "${dumpdir}/${name}/utt2num_samples" &&
            log "${out} is up to date, nothing to do" && return
        llmvq sequences make --builder interleaved --data_dir "${dumpdir}/${name}" --ctm "${ctm}" --cards "${conf_dir}/systems.yaml" --form "${1#*/}" \
            ${interleave_opts[@]+"${interleave_opts[@]}"} --encoder_config "${encoder_dir}/config.yaml" \
            "${context_opts[@]}" --bridge_stack "${bridge_stack}" --out "${out}"
        note_options "${out}" "${made}"
        ;;
    esac
}

if stage_on 9; then
    log "Stage 9: sequences of ${all_sets}${sources:+; for mixtures: $(paste -s -d ' ' - <<<"${sources}")}"
    # shellcheck disable=SC2086
    sequences ${all_sets}
    for source in ${sources}; do make_source "${source}"; done
fi

# Mixtures of the sources: files NAME.jsonl and NAME_shape in EXPDIR/mixtures
mix() {
    local source name shares out specs inputs mix_opts
    while IFS='|' read -r name shares; do
        out=${expdir}/mixtures/${name}.jsonl specs=() inputs=("${card_files[@]}")
        for source in ${shares}; do
            specs+=("${source%=*}=${source#*=}:$(source_file "${source%=*}"):$(source_shape "${source%=*}")")
            specs[-1]=${specs[-1]/\//_}
            inputs+=("$(source_shape "${source%=*}")")
        done
        mix_opts=(--seed "${base_seed}" ${mixture_positions:+--positions "${mixture_positions}"})
        if made_with "${out}" "${mix_opts[*]}" && fresh "${out%.jsonl}_shape" "${inputs[@]}"; then
            log "${out} is up to date, nothing to do"
        else
            llmvq sequences mix --out "${out}" --shape "${out%.jsonl}_shape" "${mix_opts[@]}" "${specs[@]}"
            note_options "${out}" "${mix_opts[*]}"
        fi
    done <<<"${mixtures}"
}

cache_dir=${encoder_dir}/frames
if [ -n "${pretrained_encoder}" ] && grep -qs "layer: weighted" "${encoder_config}"; then
    ! stage_on 10 || log "the weights of the layers of ${pretrained_encoder} train: its frames are not cached"
    cache_encoder=false
fi
if stage_on 10; then
    log "Stage 10: LLM positions -> ${expdir}/stats; encoder frames -> ${cache_dir}"
    source_opts=()
    for source in ${sources}; do source_opts+=("$(source_file "${source}")" "$(source_shape "${source}")"); done
    if ${cache_encoder}; then
        encode_opts=(--encoder "${encoder_dir}" --threads "${nj}" --ngpu "${ngpu}")
        pairs=() clean_sets=()
        for name in ${all_sets}; do
            made=clean
            ! ${augment_cache} || [ "${name}" != "${train_set}" ] || made="augmented, seed ${base_seed}"
            made_with "${cache_dir}/${name}" "${made}" &&
                fresh "${cache_dir}/${name}/frames.scp" "${dumpdir}/${name}/sequences.jsonl" "${encoder_file}" && continue
            rm -f "${cache_dir}/${name}.options"
            if [ "${made}" != clean ]; then
                on "${cuda_cmd}" "${expdir}/log/encode_${name}.log" encode "${encode_opts[@]}" --augment --seed "${base_seed}" "${dumpdir}/${name}/sequences.jsonl" "${cache_dir}/${name}"
                note_options "${cache_dir}/${name}" "${made}"
            else
                clean_sets+=("${name}")
                pairs+=("${dumpdir}/${name}/sequences.jsonl" "${cache_dir}/${name}")
            fi
        done
        if [ ${#pairs[@]} -gt 0 ]; then
            start on "${cuda_cmd}" "${expdir}/log/encode.log" encode "${encode_opts[@]}" "${pairs[@]}"
        else
            log "${cache_dir} is up to date, nothing to do"
        fi
    fi
    positions "${bridge_stack}" "${encoder_dir}/config.yaml" "${expdir}/stats" ${source_opts[@]+"${source_opts[@]}"}
    if [ -n "${mixtures}" ]; then
        log "Stage 10: mixtures -> ${expdir}/mixtures"
        mix
    fi
    finish "encoding"
    if ${cache_encoder}; then
        for name in ${clean_sets[@]+"${clean_sets[@]}"}; do note_options "${cache_dir}/${name}" clean; done
    fi
fi

if stage_on 11; then
    log "Stage 11: train ${systems} -> ${expdir}"
    encoder_opts=(--encoder_file "${encoder_file}")
    [ -z "${pretrained_encoder}" ] || encoder_opts=("${pretrained_opts[@]}")
    cache_opts=()
    if ${cache_encoder}; then
        cache_opts=(--train_cache "${cache_dir}/${train_set}/frames.scp" --valid_cache "${cache_dir}/${valid_set}/frames.scp")
    fi
    train_on "${expdir}/log/train.log" --systems "${systems}" "${encoder_opts[@]}" --llm "${llm}" "${data_opts[@]}" "${train_opts[@]}" --seed "${seed}" \
        ${cache_opts[@]+"${cache_opts[@]}"} --nj "${nj}" \
        --train_shape "${expdir}/stats/train_shape" --valid_shape "${expdir}/stats/valid_shape" --mixture_dir "${expdir}/mixtures"
fi

if stage_on 12; then
    log "Stage 12: decode${test_names} with ${systems}"
    set_opts=()
    decoded_sets=${test_names}
    [ "${ctc_weight}" != valid ] || decoded_sets+=" ${valid_set}"
    for name in ${decoded_sets}; do
        set_opts+=(--set "${name}=${dumpdir}/${name}/sequences.jsonl=${cache_dir}/${name}/frames.scp")
    done
    # Asked to begin here: decode again.
    [ "${stage}" -ne 12 ] || set_opts+=(--redo)
    ! ${other_prompt} || set_opts+=(--other_prompt)
    system_opts=(--systems "${systems}" --conf_dir "${conf_dir}" --expdir "${expdir}" --encoder "${encoder_dir}" --seed "${seed}")
    on "${decode_cmd}" "${expdir}/log/decode.log" decode "${system_opts[@]}" --llm "${llm}" --num_beams "${num_beams}" --nj "${nj}" --ngpu "${ngpu}" "${set_opts[@]}"
    rescore_opts=(--ctc_weight "${ctc_weight}" --normaliser "${normaliser}")
    [ "${ctc_weight}" != valid ] || rescore_opts+=(--tune "${valid_set}=${dumpdir}/${valid_set}/text")
    for name in ${decoded_sets}; do rescore_opts+=(--set "${name}"); done
    llmvq rescore "${system_opts[@]}" "${rescore_opts[@]}"
    # Files of questions are gone through side by side.
    items=$(wc -w <<<"${questions}")
    for item in ${questions}; do
        IFS='=' read -r kind file examples <<<"${item}"
        log "Stage 12: questions of ${file} to ${systems}, and in writing to ${llm}"
        ask_opts=(--questions "${file}" --llm "${llm}" --llm_dir "${expdir}/llm_alone" --nj $(((nj + items - 1) / items)) --ngpu "${ngpu}")
        [ -z "${questions_config}" ] || ask_opts+=(--config "${questions_config}")
        [ "${stage}" -ne 12 ] || ask_opts+=(--redo)
        if [ "${kind}" = mc ]; then
            start llmvq multiple_choice "${system_opts[@]}" "${ask_opts[@]}" ${examples:+--examples "${examples}"}
        else
            start llmvq spoken_qa "${system_opts[@]}" "${ask_opts[@]}"
        fi
    done
    finish "asking questions"
fi

results_dir=${expdir}
[ "${seed}" -eq 1 ] || results_dir=${expdir}/seed${seed}
# Systems and sets as options of scoring and report: the array table_opts.
set_table_opts() {
    local line pair name metrics spec item
    table_opts=(--baseline "${baseline}" --normaliser "${normaliser}")
    while IFS= read -r line; do
        table_opts+=(--system "${line}")
    done < <(llmvq recipe systems --conf_dir "${conf_dir}" --systems "${systems}" --expdir "${expdir}" --encoder "${encoder_dir}" --seed "${seed}")
    for pair in ${test_sets}; do
        name=${pair%:*} metrics=
        spec="${name}|${pair#*:}|${dumpdir}/${name}/text|utt2spk=${dumpdir}/${name}/utt2spk"
        [ ! -f "${dumpdir}/${name}/entities" ] || spec+="|entities=${dumpdir}/${name}/entities"
        for item in ${set_normalisers}; do [ "${item%%:*}" != "${name}" ] || spec+="|normaliser=${item#*:}"; done
        for item in ${word_lists}; do [ "${item%%=*}" != "${name}" ] || spec+="|word_list=${item#*=}"; done
        for item in ${set_metrics}; do [ "${item%%:*}" != "${name}" ] || metrics+=",${item#*:}"; done
        [ -z "${metrics}" ] || spec+="|metrics=${metrics#,}"
        table_opts+=(--set "${spec}")
    done
}

if stage_on 13; then
    log "Stage 13: score -> ${results_dir}/RESULTS.md, ${results_dir}/results.json"
    set_table_opts
    for file in "${conf_dir}"/published/*.yaml; do
        [ ! -f "${file}" ] || table_opts+=(--published "${file}")
    done
    [ ! -d "${expdir}/llm_alone" ] || table_opts+=(--answers "llm|LLM alone, in writing|${expdir}/llm_alone")
    # Empty hypotheses are a fault of the system, not of the files: the audit counts them.
    # shellcheck disable=SC2086
    llmvq results "${table_opts[@]}" --train_text "${dumpdir}/${train_set}/text" --resample "${resample}" --prompt "${prompt}" \
        --empty_hyp keep --seed "${seed}" --out_dir "${results_dir}" ${score_opts}
fi

if stage_on 14; then
    log "Stage 14: analyse -> ${results_dir}/analysis"
    set_opts=()
    for name in ${test_names}; do
        set_opts+=(--set "${name}=${dumpdir}/${name}/sequences.jsonl=${cache_dir}/${name}/frames.scp")
    done
    # Asked to begin here: analyse again.
    [ "${stage}" -ne 14 ] || set_opts+=(--redo)
    # shellcheck disable=SC2086
    llmvq analyse --systems "${systems}" --conf_dir "${conf_dir}" --expdir "${expdir}" --encoder "${encoder_dir}" --seed "${seed}" \
        --out_dir "${results_dir}/analysis" --title "${title}" --nj "${nj}" --ngpu "${ngpu}" \
        "${set_opts[@]}" ${analyse_opts}
fi

if stage_on 15; then
    log "Stage 15: report -> ${results_dir}/report/report.html"
    set_table_opts
    llmvq report "${table_opts[@]}" --exp_dir "${expdir}" --results_dir "${results_dir}" --title "${title}"
fi

packed_dir=${results_dir}/packed/${pack_system}
if stage_on 16; then
    log "Stage 16: pack ${pack_system} -> ${packed_dir}"
    llmvq pack --system "${pack_system}" --conf_dir "${conf_dir}" --expdir "${expdir}" --encoder "${encoder_dir}" --seed "${seed}" \
        --results "${results_dir}/results.json" --prompt "${prompt}" --out "${packed_dir}"
fi

if stage_on 17; then
    log "Stage 17: upload ${packed_dir} -> ${hf_repo}"
    if [[ ${hf_repo} == [/.]* ]]; then
        llmvq upload "${packed_dir}" --to "${hf_repo}"
    else
        llmvq upload "${packed_dir}" --repo "${hf_repo}"
    fi
fi

log "finished"
