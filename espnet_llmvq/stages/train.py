"""Training of the encoder (stage 7) and of the phases of systems (stage 11), and what they would do and cost."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made
from espnet_llmvq.experiment.systems import SHARE_KEY
from espnet_llmvq.stages.encoder import encoder_frames, encoder_shapes, frames_of
from espnet_llmvq.stages.report import REMEDY, elsewhere, local, tools
from espnet_llmvq.stages.sequences import check_sequences

SHAPES = ("train_shape_file", "valid_shape_file")
DATA = ("train_data_path_and_name_and_type", "valid_data_path_and_name_and_type")
# Settings that are paths of inputs, of which the content counts and not how the path is written.
PATHS = (*DATA, *SHAPES, "train_cache", "valid_cache", "encoder_file", "init_from", "llm", "ctc_tokens")


def frames_are_trained(experiment, training):
    """Whether a training changes what the encoder gives, so that frames cached before are not its own."""
    from espnet_llmvq.speech import pretrained

    alone = training.is_encoder and not experiment.on_pretrained
    return alone or pretrained.frames_are_trained(training.config, phase_encoder(experiment, training))


def phase_encoder(experiment, training):
    """The checkpoint that the frozen encoder of a phase comes from, None if its config names the encoder itself."""
    described = experiment.options.pretrained_encoder and not experiment.trains_encoder
    return None if training.is_encoder or described else experiment.encoder_file


def shapes_of(experiment, training):
    """(training, validation) files of the positions that batches of a training are planned by."""
    if training.is_encoder:
        return encoder_shapes(experiment)
    train, valid = map(experiment.positions, (experiment.options.train_set, experiment.options.valid_set))
    if training.share < 1:
        return experiment.share(training.share), valid
    return (experiment.mixture(training.mixture)[1] if training.mixture else train), valid


def cached_frames(experiment, training):
    """Listing of the cached frames of plain transcribed speech that a training reads, or None."""
    return encoder_frames(experiment) if training.is_encoder else frames_of(experiment, experiment.options.train_set)


def data_of(experiment, training):
    """What a training reads: settings of its sequences, their positions and cached encoder frames.

    Cached frames are those of the frozen encoder, and of the transcribed speech of the training set, in whole files.
    """
    options = experiment.options
    train = experiment.mixture(training.mixture)[0] if training.mixture else experiment.sequences(options.train_set)
    if training.is_encoder:
        train = experiment.encoder_sequences
    shape, valid_shape = shapes_of(experiment, training)
    own = frames_are_trained(experiment, training)
    cached = not own and (not training.mixture or experiment.whole_files(training.mixture))
    return {
        "train_data_path_and_name_and_type": [[train, "sequence", "sequence"]],
        "valid_data_path_and_name_and_type": [[experiment.sequences(options.valid_set), "sequence", "sequence"]],
        "train_shape_file": [shape],
        "valid_shape_file": [valid_shape],
        "train_cache": cached_frames(experiment, training) if cached else None,
        "valid_cache": None if own else frames_of(experiment, options.valid_set),
    }


def settings_of(experiment, training, distributed=None):
    """The config of a training as ESPnet gets it. distributed: options of ESPnet's launcher, {} or None for none."""
    options, config = experiment.options, dict(training.config)
    several = options.ngpu > 1 or distributed
    if config.get("fsdp") and not several:
        from espnet_llmvq.espnet.fsdp import ONE_PROCESS

        raise UserError(f"{training.where}: {ONE_PROCESS}")
    if options.ngpu > 1 and not distributed:
        config.setdefault("multiprocessing_distributed", True)  # else ESPnet splits batches along an axis
    if several and not config.get("fsdp") and (training.mixture or frames_are_trained(experiment, training)):
        # A batch of text alone does not run the bridge, a pretrained encoder may have parts that it does not use.
        config.setdefault("unused_parameters", True)
    parent = experiment.exp(training.parent, "model.pth") if training.parent else None
    return {
        **config,
        "llm": (experiment.spelling or experiment.tokenizer) if training.is_encoder else experiment.llm,
        **({"ctc_tokens": experiment.spelling} if training.is_encoder and experiment.spelling else {}),
        "encoder_file": phase_encoder(experiment, training),
        "init_from": parent,
        **data_of(experiment, training),
        "seed": options.base_seed if training.is_encoder else options.seed,
        "ngpu": options.ngpu,
    }


def made_of(experiment, training, settings):
    """The `Made` of a training: its directory, the content of all it reads, and its settings."""
    inputs = {
        "training sequences": settings[DATA[0]][0][0],
        "validation sequences": settings[DATA[1]][0][0],
        "training positions": settings[SHAPES[0]][0],
        "validation positions": settings[SHAPES[1]][0],
        "encoder": settings["encoder_file"],
        **local("pretrained encoder", experiment.options.pretrained_encoder),
        "phase before": settings["init_from"],
        "training frames": settings["train_cache"] and os.path.dirname(settings["train_cache"]),
        "validation frames": settings["valid_cache"] and os.path.dirname(settings["valid_cache"]),
        **local("llm", settings["llm"]),
    }
    inputs = {name: path for name, path in inputs.items() if path}
    libraries = tools("torch", "espnet", "transformers", "peft")
    kept = {key: value for key, value in settings.items() if key not in PATHS} | elsewhere("llm", settings["llm"])
    if settings.get("fsdp"):  # what some processes began others go on with: batches and checkpoints are the same
        kept = {key: value for key, value in kept.items() if key not in ("ngpu", "multiprocessing_distributed")}
    if training.share < 1:
        kept[SHARE_KEY] = training.share
    return Made(experiment.exp(training.tag), inputs, settings=kept, **libraries)


def train(experiment, encoder=False, nj=1, threads=1, distributed=None):
    """Train what is not trained. encoder: the speech encoder instead of the systems. nj: phases at once."""
    from espnet_llmvq.espnet.run import Job, run_phases
    from espnet_llmvq.sequence.shape import Shape

    trainings = [t for t in experiment.trainings if t.is_encoder == encoder]
    if not trainings:
        what = f"the encoder is {experiment.encoder_file}" if encoder else "the systems have no phases"
        print(f"{what}, nothing to train")
        return
    options = experiment.options
    plain = not all(training.mixture for training in trainings)
    check_sequences(experiment, [options.train_set] * plain + [options.valid_set])
    jobs = []
    for training in trainings:
        settings = settings_of(experiment, training, distributed)
        jobs.append(
            Job(training.tag, training.parent, settings, lambda t=training, s=settings: made_of(experiment, t, s))
        )
    for path in sorted({file for job in jobs for key in SHAPES for file in job.settings[key]}):
        Shape(path)  # before ESPnet and its log have the word
    nj = 1 if experiment.options.ngpu or distributed else nj
    run_phases(jobs, nj, threads, distributed, REMEDY)


def check(experiment):
    """Raise UserError for a key that nothing reads and for a bridge that cannot be. Quick after the first time."""
    configs = {training.where: training.config for training in experiment.trainings}
    made = Made(experiment.exp(".configs_checked"), configs=configs, **tools("espnet"))
    if made.fresh():
        return
    print("checking configs", flush=True)
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.espnet.task import SpeechLLMTask

    for where, config in configs.items():
        SpeechLLMTask.check_config(config, where)
    check_kept_rows(experiment, configs)
    write_text(made.out, "")
    made.note()


def check_kept_rows(experiment, configs):
    """Raise UserError for a top_k above the vocabulary now, not when its phase has its turn.

    The LLM is opened only if one of the configs has a quantizer, and one that is trained here only when it is there.
    """
    from espnet_llmvq.bridge.bridge import check_top_k
    from espnet_llmvq.llm.directory import table_rows

    kept = {where: (config.get("bridge_conf") or {}).get("top_k") for where, config in configs.items()}
    kept = {where: top_k for where, top_k in kept.items() if top_k is not None}
    rows = experiment.options.vocab_size if experiment.trains_llm else table_rows(experiment.llm) if kept else None
    for where, top_k in kept.items():
        try:
            check_top_k(top_k, rows)
        except UserError as err:
            raise UserError(f"{where}: {err}") from None


def dry_run(experiment):
    """What would be trained and how, as a list of dicts for JSON; printed too."""
    from espnet_llmvq.espnet.run import epoch_batches
    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.experiment.phases import describe, show, with_defaults

    options, defaults, found = experiment.options, SpeechLLMTask.get_default_config(), []
    gpus = max(options.ngpu, 1) * options.num_nodes
    for training in experiment.trainings:
        SpeechLLMTask.check_config(training.config, training.where)
        shape, batches = shapes_of(experiment, training)[0], None
        if os.path.exists(shape):
            batches = epoch_batches(with_defaults(training.config, defaults), shape, gpus)
        also = {"also": experiment.encoder_sets[1:]} if training.is_encoder else {}
        found.append(describe(training, defaults, gpus, batches) | also)
        print("\n".join(show(found[-1])))
    return found
