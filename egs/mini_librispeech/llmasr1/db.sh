# shellcheck shell=bash disable=SC2034
# Where corpora, text and models are. Each comes from the environment if set there. With CORPORA, a folder, each is taken
# from there if it is in it; an empty one is left out. Set the same each time: they decide the columns of the table.
CORPORA=${CORPORA:-}
_of() { if [ -n "${CORPORA}" ] && [ -e "${CORPORA}/$1" ]; then echo "${CORPORA}/$1"; fi; }

# Needed. https://www.openslr.org/31: the folder LibriSpeech with train-clean-5/ and, as a further test set, dev-clean-2/,
# or the one it is in; or "download", which fetches 460 MB into downloads/.
MINI_LIBRISPEECH=${MINI_LIBRISPEECH-$(_of mini_librispeech)}
MINI_LIBRISPEECH_URL=${MINI_LIBRISPEECH_URL:-https://www.openslr.org/resources/31}

# Test sets out of domain. Each may also be a folder that holds test/{wav.scp,text,utt2spk}.
COMMONVOICE=${COMMONVOICE-$(_of cv100)} # cv-corpus-*/en with test.tsv and clips/
AN4=${AN4-$(_of an4)}                   # https://github.com/cmusphinx/an4 (etc/, wav/); this form alone
S2I=${S2I-$(_of s2i)}                   # https://github.com/Picovoice/speech-to-intent-benchmark; else with test/entities too
ARCTIC=${ARCTIC-$(_of kathleen)}        # one voice reading Arctic prompts, in a form of docs/fork.md; or with all/
ALNUM=${ALNUM-$(_of alnum)}             # spelled names, numbers, addresses: test/{wav.scp,prompt,utt2spk}; this form alone
SO762=${SO762-$(_of so762)}             # https://www.openslr.org/101
FSDD=${FSDD-$(_of fsdd)}                # https://github.com/Jakobovski/free-spoken-digit-dataset

# Of test sets that have more, so many utterances, evenly spread over the list; empty: all of each.
TEST_UTTERANCES=${TEST_UTTERANCES-150}
# To choose between rows and settings without looking at a test set: of coffee orders, Arctic prompts and speechocean762, where
# they have as many left, so many utterances that are in no test set. Set, they take the place of the test sets. Empty: none.
DEV_UTTERANCES=${DEV_UTTERANCES-}

# Text, a sentence or paragraph a line, files with blanks between: what the LLM keeps tokens for, beside the transcripts. Lines that
# share seven words in a row with any utterance are left out. Empty: the training transcripts alone.
LM_TEXT=${LM_TEXT-$(_of text/standardebooks_paragraphs.txt) $(_of text/cv_sentences_en.txt)}
# Text of which espeak-ng speaks sentences, for the CTC head to hear more words: the same. Empty: none.
TTS_FROM=${TTS_FROM-$(_of text/standardebooks_paragraphs.txt)}

# Models: Hugging Face directories; `make models` gets these. LLM: empty for GEMMA, trimmed (local/llm.sh).
MODELS=${MODELS:-${MAIN_ROOT}/downloads/models}
WHISPER=${WHISPER:-${MODELS}/whisper-base}
GEMMA=${GEMMA:-${MODELS}/gemma-3-270m}
LLM=${LLM:-}
