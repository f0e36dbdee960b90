# shellcheck shell=bash disable=SC2034
# Where the corpora are. Each comes from the environment if set there; the recipe runs with AN4 alone.

# AN4 as https://github.com/cmusphinx/an4 lays it out (etc/, wav/). local/data.sh fetches it if absent.
AN4=${AN4:-downloads/an4}

# Free Spoken Digits, for test_fsdd: a clone of https://github.com/Jakobovski/free-spoken-digit-dataset
# (recordings/), or a folder holding test/{wav.scp,text,utt2spk}. Empty: the set is left out.
FSDD=${FSDD:-}

# speechocean762, for test_so762: https://www.openslr.org/101 unpacked ({train,test}/, WAVE/), or a folder
# holding some of {train,dev,test}/{wav.scp,text,utt2spk}. Empty: the set is left out.
SO762=${SO762:-}
