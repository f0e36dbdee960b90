"""Data directories (stages 1 to 4): checked, perturbed, spoken, formatted, filtered."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.base.made import Made
from espnet_llmvq.experiment.experiment import TTS
from espnet_llmvq.experiment.options import words
from espnet_llmvq.experiment.plan import SMOKE_LINES

SMOKE_TRAIN, SMOKE_OTHERS = 40, 8  # utterances that a smoke run leaves of sets


def cut(experiment):
    """For smoke runs: leave a handful of what local/data.sh wrote, the audio excepted."""
    from espnet_llmvq.data.subset import cut as cut_tables

    options = experiment.options
    for name in experiment.set_names:
        if os.path.exists(os.path.join(experiment.data_dir(name), "text")):
            cut_tables(experiment.data_dir(name), SMOKE_TRAIN if name == options.train_set else SMOKE_OTHERS)
    for path in (*experiment.lm_train_text, *experiment.lm_valid_text.values()):
        inside = os.path.abspath(path).startswith(os.path.abspath(options.datadir) + os.sep)
        if inside and os.path.exists(path):  # an LLM from elsewhere needs no text
            with open(path, encoding="utf-8") as f:
                lines = f.readlines()
            if len(lines) > SMOKE_LINES:
                write_text(path, "".join(lines[:SMOKE_LINES]), known=True)


def check(experiment, nj):
    """Find every defect of the data directories. Raises UserError after listing them."""
    from espnet_llmvq.data.checks import show_problems, validate
    from espnet_llmvq.data.shared import check_directories_apart
    from espnet_llmvq.data.tables import managed_files

    repeated = experiment.options.repeated_audio
    for name in experiment.set_names:
        directory = experiment.data_dir(name)
        if not os.path.isdir(directory):
            raise UserError(f"{directory} does not exist; stage 1 did not make it")
        tables = [os.path.join(directory, table) for table in managed_files(directory)]
        made = Made(
            os.path.join(experiment.options.datadir, f".valid_{name}"),
            tables,
            **({"repeated_audio": True} if repeated else {}),
        )
        if made.fresh():
            continue
        print(f"validating {directory}", flush=True)
        problems = validate(directory, nj=nj, repeated_audio=repeated)
        if show_problems(directory, problems):
            raise UserError(f"{directory} has {len(problems)} problems, listed above")
        write_text(made.out, "")
        made.note()
    directories = {name: experiment.data_dir(name) for name in experiment.set_names}
    check_directories_apart(directories, experiment.test_names)


def perturb(experiment, nj):
    """Speech for --tts_text, and copies of the training set at other speeds."""
    options = experiment.options
    if options.tts_text:
        from espnet_llmvq.data.synthesise import synthesise
        from espnet_llmvq.data.tables import read_scp

        utterances, voices = list(read_scp(options.tts_text).items()), words(options.tts_voices, "tts_voices")
        command, out = options.tts_command or None, experiment.data_dir(TTS)
        synthesise(utterances, out, voices=voices, seed=options.base_seed, nj=nj, command=command)
    if options.speed_perturb_factors:
        from espnet_llmvq.data.copies import perturb_speed

        factors = words(options.speed_perturb_factors, "speed_perturb_factors")
        source, target = (experiment.data_dir(name) for name in (options.train_set, experiment.perturbed_set))
        perturb_speed(source, target, factors, nj=nj)


def filtered_sets(experiment):
    """Sets whose utterances are filtered: never test sets."""
    options = experiment.options
    return [options.train_set, options.valid_set, *([TTS] if options.tts_text else [])]


def format_sets(experiment, nj):
    """16 kHz mono, one file an utterance: of sets that are filtered beside their place."""
    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.data.format import format_audio

    options = experiment.options
    for name in [*filtered_sets(experiment), *experiment.test_names]:
        source = experiment.perturbed_set if name == options.train_set else name
        target = experiment.dump_dir(name) + ".unfiltered" * (name in filtered_sets(experiment))
        format_audio(experiment.data_dir(source), target, rate=SAMPLE_RATE, nj=nj, audio_format=options.audio_format)


def filter_sets(experiment):
    """Drop what is too short, too long or without text from training and validation sets."""
    from espnet_llmvq.data.filter import filter_data

    options = experiment.options
    for name in filtered_sets(experiment):
        directory = experiment.dump_dir(name)
        limits = {"min_duration": options.min_duration, "max_duration": options.max_duration}
        filter_data(f"{directory}.unfiltered", directory, **limits)
