"""The analysis of trained systems (stage 14)."""

import os
from dataclasses import replace

from espnet_llmvq.analyse import run
from espnet_llmvq.experiment.phases import hearing
from espnet_llmvq.stages.encoder import frames_read
from espnet_llmvq.stages.heard import spoken_words


def analyse(experiment, systems, options=None, *, nj=1, ngpu=0, redo=False):
    """Analyse systems on the test sets. options: `Analysis`, its title that of the experiment."""
    options = replace(options or run.Analysis(), title=experiment.options.title)
    sets = {}
    for name in experiment.test_names:
        frames = {frames_read(experiment, system, name) for system in systems if system.decode == "llm"} - {None}
        sets[name] = (experiment.sequences(name), next(iter(frames), None))
    out_dir = os.path.join(experiment.results_dir, "analysis")
    there = hearing(experiment.trainings, experiment.mixtures) and os.path.exists(spoken_words(experiment))
    spoken = spoken_words(experiment) if there else None
    run.analyse(systems, sets, out_dir, options, nj=nj, ngpu=ngpu, redo=redo, spoken=spoken)
