# shellcheck shell=bash disable=SC2034
# Where corpora, text and models are. Each comes from the environment if set there. With CORPORA, a folder, each is taken
# from there if it is in it; a domain whose corpora are not there is left out. Set the same each time.
CORPORA=${CORPORA:-}
_of() { if [ -n "${CORPORA}" ] && [ -e "${CORPORA}/$1" ]; then echo "${CORPORA}/$1"; fi; }

# Needed. https://www.openslr.org/31, as in llmasr1; or "download".
MINI_LIBRISPEECH=${MINI_LIBRISPEECH-$(_of mini_librispeech)}
MINI_LIBRISPEECH_URL=${MINI_LIBRISPEECH_URL:-https://www.openslr.org/resources/31}

# Of the domains; local/domains/NAME/card.yaml says which it needs.
S2I=${S2I-$(_of s2i)}                                   # coffee: https://github.com/Picovoice/speech-to-intent-benchmark
ALNUM=${ALNUM-$(_of alnum)}                             # contacts: test/{wav.scp,prompt,utt2spk}
MEDQUAD=${MEDQUAD-$(_of text/medquad_answers.txt)}      # medical: answers, a paragraph a line
MTS_DIALOG=${MTS_DIALOG-$(_of text/mts_dialog.txt)}     # medical: dialogues, a turn a line

# Domains to train and test on, folders of local/domains. Another list needs directories of its own: README.md.
DOMAINS=${DOMAINS-coffee contacts medical}

# Of test sets that have more, so many utterances, evenly spread over the list; empty: all of each.
TEST_UTTERANCES=${TEST_UTTERANCES-150}

# Models of `make models`. Of Whisper only the tokenizer is read here: it counts the words that it can be told of.
MODELS=${MODELS:-${MAIN_ROOT}/downloads/models}
WHISPER=${WHISPER:-${MODELS}/whisper-base}

# Encoder with its CTC head, and LLM: those of llmasr1, trained there (stages 1 to 7). Smoke runs take those of a smoke run there.
ENCODER=${ENCODER:-../llmasr1/exp/encoder/model.pth}
LLM=${LLM:-../llmasr1/llm/gemma}
ENCODER_SMOKE=${ENCODER_SMOKE:-../llmasr1/exp_smoke/encoder/model.pth}
LLM_SMOKE=${LLM_SMOKE:-../llmasr1/llm_smoke/gemma}
