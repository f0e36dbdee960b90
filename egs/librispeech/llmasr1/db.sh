# shellcheck shell=bash disable=SC2034
# Where corpora and models are. Each comes from the environment if set there. A corpus whose path is empty is left out;
# LibriSpeech, which is trained on, is needed. README.md says what each path must hold.

# https://www.openslr.org/12: the folder LibriSpeech; or "download", which fetches 60 GB into downloads/.
LIBRISPEECH=${LIBRISPEECH:-}
LIBRISPEECH_URL=${LIBRISPEECH_URL:-https://www.openslr.org/resources/12}

# Test sets out of domain.
COMMONVOICE=${COMMONVOICE:-} # cv-corpus-17.0-2024-03-15, with en/
TEDLIUM3=${TEDLIUM3:-}       # TEDLIUM_release-3, with legacy/
VOXPOPULI=${VOXPOPULI:-}     # --root of voxpopuli.get_asr_data, with transcribed_data/en/
GIGASPEECH=${GIGASPEECH:-}   # folder of GigaSpeech.json and audio/
AMI=${AMI:-}                 # folder of ami_public_manual_1.6.2/ and amicorpus/
EARNINGS22=${EARNINGS22:-}   # earnings22 of https://github.com/revdotcom/speech-datasets
SPGISPEECH=${SPGISPEECH:-}   # folder of val.csv and val/

# Encoders and LLM: Hugging Face directories, or hub ids, which are downloaded when first used.
WAVLM=${WAVLM:-microsoft/wavlm-large}
WHISPER=${WHISPER:-openai/whisper-medium.en}
LLM=${LLM:-Qwen/Qwen2.5-0.5B}

# The encoder of this run: wavlm or whisper. Each has its own configs and its own exp/.
ENCODER=${ENCODER:-wavlm}
