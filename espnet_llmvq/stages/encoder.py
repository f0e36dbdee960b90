"""The speech encoder: trained or described (stage 7), word times by its CTC head (8), its frames (10)."""

import itertools
import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made, origin
from espnet_llmvq.decode.encode import LISTING
from espnet_llmvq.speech.frame_rate import WEIGHTED, described, last_state
from espnet_llmvq.stages.report import REMEDY, local, tools, up_to_date
from espnet_llmvq.stages.sequences import count_positions, make_sequences

# What the task needs to build a model that is an encoder and nothing else.
ENCODER_ONLY = {
    "model_conf": {"ctc_weight": 0.0, "start_weight": 0.0, "llm_weight": 0.0},
    "encoder_file": None, "bridge": "none", "bridge_conf": {}, "llm_conf": {}, "ctc_conf": {}, "augment_conf": {},
    "freeze": [],
}  # fmt: skip


def encoder_shapes(experiment):
    """(training, validation) files of the positions that batches of the encoder's training are planned by."""
    return experiment.exp("encoder_stats", "train_shape"), experiment.exp("encoder_stats", "valid_shape")


def prepare(experiment, threads=1, ngpu=0):
    """What the training of the encoder needs: sequences, and the frames of each. Or a pretrained one, described."""
    options = experiment.options
    if not experiment.trains_encoder:
        if options.pretrained_encoder and experiment.uses_encoder:
            describe_pretrained(experiment)
        return
    make_sequences(experiment, [*experiment.encoder_sets, options.valid_set])
    join_sequences(experiment)
    train, valid = encoder_shapes(experiment)
    pairs = [(experiment.sequences(options.valid_set), valid), (experiment.encoder_sequences, train)]
    count_positions(pairs, experiment.spelling or experiment.tokenizer, experiment.encoder, 1, ctc=True)
    if experiment.on_pretrained:
        encode(experiment, threads, ngpu, names=[*experiment.encoder_sets, options.valid_set])
        join_frames(experiment)


def join_sequences(experiment):
    """One file of what the encoder is trained on, where that is several sets."""
    out = experiment.encoder_sequences
    made = Made(out, {name: experiment.sequences(name) for name in experiment.encoder_sets})
    if len(made.inputs) > 1 and not up_to_date(made):
        from espnet_llmvq.sequence.sequence import read_sequences, write_sequences

        made.forget()
        count = write_sequences(out, itertools.chain(*map(read_sequences, made.inputs.values())))
        made.note()
        print(f"{out}: {count} sequences of {', '.join(made.inputs)}")


def joined_frames(experiment):
    """The `Made` of the listing of the cached frames of all that the encoder is trained on."""
    names = experiment.encoder_sets
    return Made(experiment.frames("+".join(names)), {name: experiment.frames(name) for name in names})


def join_frames(experiment):
    """One listing of the cached frames of what is trained on, where that is several sets."""
    made = joined_frames(experiment)
    if not experiment.caches_frames or len(made.inputs) == 1 or up_to_date(made):
        return
    from espnet_llmvq.base.files import write_text

    with made.rebuilding() as building:
        parts = []
        for directory in made.inputs.values():
            with open(os.path.join(directory, LISTING), encoding="utf-8") as f:
                parts += f.readlines()
        write_text(os.path.join(building, LISTING), "".join(sorted(parts)))
        made.note(files=[LISTING], at=building)


def encoder_frames(experiment):
    """Listing of the cached frames that the encoder's training reads; None: it reads waveforms."""
    if not (experiment.on_pretrained and experiment.caches_frames):
        return None
    if len(experiment.encoder_sets) == 1:
        return frames_of(experiment, *experiment.encoder_sets)
    return os.path.join(joined_frames(experiment).out, LISTING)


def describe_pretrained(experiment):
    """Make WavLM or Whisper the encoder of the experiment: checked, and described in its directory's config.yaml.

    Nothing is trained or copied: its weights stay where they are, and other commands find them by that config.
    """
    import yaml

    from espnet_llmvq.base.files import write_text, writing

    path = experiment.options.pretrained_encoder
    config = {**experiment.encoder, **ENCODER_ONLY, "frontend_conf": {}, "normalize_conf": {}}
    config["llm"] = experiment.tokenizer
    made = Made(experiment.encoder_dir, local("pretrained encoder", path), config=config, **last_state(config))
    if made.done(REMEDY):
        print(f"{made.out} is there, nothing to do", flush=True)
        return
    import torch

    os.makedirs(made.out, exist_ok=True)
    made.begin()
    write_text(os.path.join(made.out, "config.yaml"), yaml.safe_dump(config, sort_keys=False), known=True)
    # What a checkpoint of ours holds of such an encoder.
    rows = described(path)[0].num_hidden_layers + 1
    weighted = config["encoder_conf"].get("layer") == WEIGHTED
    state = {"speech_encoder.layer_weights": torch.zeros(rows)} if weighted else {}
    state |= {"speech_encoder.after_layer_norm": torch.ones(1)} if last_state(config) else {}
    weights = experiment.encoder_file
    with writing(weights, binary=True, known=True) as f:
        torch.save(state, f)
    made.note(files=["config.yaml", "model.pth"])
    print(f"{made.out}: {config['encoder']}, {config['encoder_conf']}")


def encoder_input(experiment):
    """The encoder as inputs of a `Made`."""
    return {"encoder": experiment.encoder_file} | local("pretrained encoder", experiment.options.pretrained_encoder)


def align(experiment, threads, ngpu=0):
    """The word times of the sets that need them."""
    names = experiment.sets_to_align
    pretrained = None if experiment.trains_encoder else experiment.options.pretrained_encoder
    make_sequences(experiment, names)
    if pretrained:  # what an HMM aligner made there is taken
        names = [name for name in names if not os.path.exists(experiment.ctm(name))]
    if names and pretrained:
        files = f"{experiment.sequences(names[0])} {experiment.ctm(names[0])}"
        raise UserError(
            f"{pretrained} has no CTC head to align {names[0]} with. Give its word times with --ctms {names[0]}=FILE "
            f"(see llmvq align import), or make them with an HMM aligner: llmvq align make --aligner hmm {files}"
        )
    from espnet_llmvq.decode.align import align_sets

    sets = []
    for name in names:
        reference = os.path.join(experiment.data_dir(name), "words.ctm")
        there = os.path.exists(reference)
        sets.append((experiment.sequences(name), experiment.ctm(name), reference if there else None))
    align_sets(sets, encoder=experiment.encoder_dir, threads=threads, ngpu=ngpu)


def frames_made(experiment, name):
    """The `Made` of the cached frames of a set."""
    options, augment = experiment.options, {}
    inputs = {"sequences": experiment.sequences(name)}
    if experiment.on_pretrained:  # what is trained on it comes later, and makes nothing of what is cached
        inputs |= local("pretrained encoder", options.pretrained_encoder)
        frontend = {key: experiment.encoder[key] for key in ("frontend", "frontend_conf")}
        return Made(experiment.frames(name), inputs, encoder=frontend, **tools("torch"))
    if options.augment_cache and name == options.train_set:
        augment = {"augment": True, "seed": options.base_seed}
    inputs |= encoder_input(experiment)
    options = {"encoder": experiment.encoder, **last_state(experiment.encoder), **augment, **tools("torch")}
    return Made(experiment.frames(name), inputs, **options)


def encode(experiment, threads, ngpu=0, batch_seconds=120.0, names=None):
    """The frames of the frozen encoder for training, validation and test sets, where they are cached.

    Of a pretrained one on which others are trained, its own. names: sets; None: all.
    """
    if not experiment.uses_encoder:
        return
    if not experiment.caches_frames:
        if experiment.options.cache_encoder:
            print(f"the weights of the layers of {experiment.options.pretrained_encoder} train: no frames are cached")
        return
    wanted = [frames_made(experiment, name) for name in names or experiment.set_names]
    waiting = [made for made in wanted if not up_to_date(made)]
    if waiting:
        from espnet_llmvq.decode.encode import frozen_part, write_frames
        from espnet_llmvq.model.build import load_model

        if experiment.on_pretrained:
            encoder, config = frozen_part(experiment.encoder), {"llm": experiment.tokenizer}
        else:
            model, config = load_model(experiment.encoder_dir)
            encoder = model.speech_encoder
        write_frames(encoder, config, waiting, threads, ngpu, batch_seconds)


def frames_of(experiment, name):
    """frames.scp of a set, None if its frames are not cached. Raises UserError if they are those of something else."""
    made = frames_made(experiment, name)
    if not (experiment.caches_frames and origin(made.out)):
        return None
    made.check("{out} is not of what this run has ({found}); run stage 10 again")
    return os.path.join(made.out, LISTING)


def frames_read(experiment, system, name):
    """`frames_of` a set as a system reads them: None where its last phase trains its encoder, or it reads the sound."""
    if system.decode == "recogniser":
        return None
    own = {training.tag for training in experiment.trainings if training.config.get("train_encoder")}
    trained = system.decode == "llm" and own.intersection(system.phases[-1:])
    return None if trained else frames_of(experiment, name)
