# shellcheck shell=bash disable=SC2034
# Where corpora and models are. Each comes from the environment if set there. Where an empty one is left out, run.sh and
# stage 1 say so. docs/librispeech_jstip.md says where to get them and under which licences.

# LibriSpeech, https://www.openslr.org/12 unpacked: LibriSpeech/{train,dev,test}-*/, CHAPTERS.TXT. Needed.
LIBRISPEECH=${LIBRISPEECH:-}

# Case and punctuation for it, one of the two. LibriSpeech-PC, https://www.openslr.org/145 unpacked (PART.json), or the
# books, original-books.tar.gz of OpenSLR 12 unpacked (LibriSpeech/books/{utf-8,ascii}/). With both, the first counts.
LIBRISPEECH_PC=${LIBRISPEECH_PC:-}
LIBRISPEECH_BOOKS=${LIBRISPEECH_BOOKS:-}

# PubMed's baseline, https://ftp.ncbi.nlm.nih.gov/pubmed/baseline/: a folder with some pubmed*.xml.gz. Empty: no rows with
# domain text or synthetic speech.
PUBMED=${PUBMED:-}

# PriMock57, a clone of https://github.com/babylonhealth/primock57 with its LFS files, for test_medical; and its entities:
# a list of terms or a tagger's output (local/entity_files.py). Empty: no set, or no entities.
PRIMOCK57=${PRIMOCK57:-}
PRIMOCK57_ENTITIES=${PRIMOCK57_ENTITIES-local/medical_terms.txt}

# MInDS-14 unpacked (text/en-US.csv, audio/en-US~INTENT/*.wav), or a manifest with audio and text, for test_banking.
MINDS14=${MINDS14:-}
MINDS14_ENTITIES=${MINDS14_ENTITIES-local/banking_terms.txt}

# MMLU, data.tar of https://github.com/hendrycks/test unpacked ({dev,test}/SUBJECT_*.csv), or JSON lines.
MMLU=${MMLU:-}

# Spoken questions: OpenAudioBench (eval_datas/NAME/NAME.csv, audios/), one of its sets, or JSON lines.
SQA=${SQA:-}

# Speaks domain text and questions without audio: a command with {text} and {wav}. Empty: espeak-ng.
TTS_COMMAND=${TTS_COMMAND:-}

# The LLM, a Hugging Face directory or hub name; conf/ is made for Qwen/Qwen2.5-0.5B. Empty: a small one is trained on
# the recipe's text, to try things out.
LLM=${LLM:-}

# model.pth of a speech encoder that this toolkit trained with the same LLM. Empty: one is trained (conf/encoder.yaml).
ENCODER=${ENCODER:-}
