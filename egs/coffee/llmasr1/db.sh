# shellcheck shell=bash disable=SC2034
# Where the corpora are. Each comes from the environment if set there; CORPORA alone will do where they lie side by side.
CORPORA=${CORPORA:-downloads}

# AN4 as https://github.com/cmusphinx/an4 lays it out (etc/, wav/).
AN4=${AN4:-${CORPORA}/an4}

# speechocean762: https://www.openslr.org/101 unpacked ({train,test}/, WAVE/), or a folder holding
# {train,test}/{wav.scp,text,utt2spk}. Where there is a dev/, it is the validation part; else speakers of train are.
SO762=${SO762:-${CORPORA}/so762}

# The voice Kathleen: https://github.com/rhasspy/dataset-voice-kathleen, in a form that docs/fork.md names (an LJSpeech
# folder, a manifest, ...), or a folder holding all/{wav.scp,text,utt2spk}.
KATHLEEN=${KATHLEEN:-${CORPORA}/kathleen}

# Coffee orders: https://github.com/Picovoice/speech-to-intent-benchmark (data/label/, data/speech/clean/), or a folder
# holding test/{wav.scp,text,utt2spk,entities}. For testing only.
S2I=${S2I:-${CORPORA}/s2i}

# More English for the language model, a sentence a line; for example the sentences of Common Voice. Empty: none.
TEXT=${TEXT:-}
