"""From the options of run.sh and the recipe's cards to an `Experiment`."""

import os
import shlex
from dataclasses import asdict, replace
from functools import partial

from espnet_llmvq.base.config import read_config, read_overrides
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.made import plain
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.checks import check_config, check_hypotheses, check_options
from espnet_llmvq.experiment.experiment import TTS, Experiment, pretrained_below, read_sets, trains_encoder
from espnet_llmvq.experiment.options import pairs, unique, words
from espnet_llmvq.experiment.phases import (
    CRITERION,
    bridge_stack,
    hearing,
    on_pretrained,
    split_batches,
    trained_parts,
    with_pretrained,
    with_schedule,
)
from espnet_llmvq.experiment.systems import FORMS, is_group, read_interleaving, read_mixture, read_phases, read_systems
from espnet_llmvq.experiment.training import Training
from espnet_llmvq.speech.recogniser import NEEDED, PretrainedRecogniser, asked

SMOKE = "_smoke"  # behind the names of a smoke run's directories
# Two steps, of small batches: batch_bins counts where the recipe's batches are of so many positions.
SMOKE_TRAINING = "max_epoch=1 num_iters_per_epoch=2 accum_grad=1 batch_bins=600 compile_llm=none"
# An encoder that has learnt nothing finds no pauses: segments end after every word.
SMOKE_INTERLEAVING = "silence=0"
SHAPE = ("frontend", "frontend_conf", "frame_stack", "encoder", "encoder_conf")  # keys that frames depend on
PIECES, SMALL_TABLE = 500, 4000  # what --ctc_pieces auto takes, of tables with more rows than this
SMOKE_LINES = 600  # that it leaves of texts of the language model
SMOKE_LM = "conf/template/lm_smoke.yaml"
SMOKE_PATHS = ("lm_train_text", "tokenizer_text", "tts_text")
SMOKE_PAIRS = ("lm_valid_text", "texts", "questions", "word_lists")


def moved_to(datadir, path):
    """The path of a smoke run's own file, where `path` leads into the data directory of other runs."""
    home, plain_path = datadir.removesuffix(SMOKE), os.path.normpath(path)
    return datadir + plain_path.removeprefix(home) if plain_path.startswith(f"{home}/") else path


def with_smoke_words(system, datadir):
    """A system whose `prompt_words` are those of the smoke run, where they are a file in the data directory."""
    words_of = system.recogniser and system.recogniser["prompt_words"]
    if not (words_of and isinstance(words_of, str)):
        return system
    return replace(system, recogniser={**system.recogniser, "prompt_words": moved_to(datadir, words_of)})


def smoke_options(options):
    """The options of a smoke run: its directories are named already, paths in the data directory lead into its own."""
    moved = partial(moved_to, options.datadir)
    changed = {name: shlex.join(map(moved, words(getattr(options, name), name))) for name in SMOKE_PATHS}
    for name in SMOKE_PAIRS:
        changed[name] = shlex.join(f"{key}={moved(path)}" for key, path in pairs(getattr(options, name), name))
    return replace(
        options, **changed, lm_config=SMOKE_LM, question_examples=moved(options.question_examples),
        train_overrides=f"{SMOKE_TRAINING} {options.train_overrides}",
        interleave_overrides=f"{SMOKE_INTERLEAVING} {options.interleave_overrides}",
    )  # fmt: skip


def make_plan(options):
    """The `Experiment` of `Options`. Raises UserError for whatever cannot be, before anything costs time."""
    homes = {name: os.path.normpath(getattr(options, name)) for name in ("datadir", "dumpdir", "expdir")}
    options = replace(options, **homes)
    if options.smoke:
        options = smoke_options(options)
    check_options(options)
    options = replace(options, title=options.title or os.path.basename(os.path.dirname(os.getcwd())))
    sets, cards = read_sets(options), read_cards(options.cards)
    wanted = words(options.systems, "systems")
    given = options.encoder_file
    encoder_dir = os.path.dirname(given) or "." if given else os.path.join(options.expdir, "encoder")
    systems = read_systems(cards, wanted, options.expdir, encoder_dir, options.seed)
    if options.smoke:
        systems = tuple(with_smoke_words(system, options.datadir) for system in systems)
    recognisers = all(system.decode == "recogniser" for system in systems)
    if options.pretrained_encoder and recognisers and not words(options.align_sets, "align_sets"):
        options = replace(options, ctc_head=False)  # nobody would use it
    if not (trains_encoder(options) or options.encoder_file):
        without = tuple(system for system in systems if system.decode in ("llm", "recogniser"))
        for system in systems:
            if system not in without:
                print(f"{system.name} is left out: with --ctc_head false the pretrained encoder has no CTC head")
        systems = without
        if not systems:
            raise UserError("no system is left: with --ctc_head false the pretrained encoder has no CTC head")
    phases = read_phases(cards, [system.name for system in systems], options.seed)
    below = pretrained_below(given_encoder(options)) if given else options.pretrained_encoder
    check_recognisers(systems, cards, below)
    check_hypotheses(systems, [options.valid_set, *(s.name for s in sets)])
    if options.baseline:
        check_name("baseline", options.baseline, [n for n in cards.names("systems") if not is_group(cards, n)])
    # A run of fewer systems than run.sh names may lack its baseline.
    names = [system.name for system in systems]
    options = replace(options, baseline=options.baseline if options.baseline in names else names[0])
    mixtures = read_mixtures(cards, phases, options)
    overrides = words(options.interleave_overrides, "interleave_overrides")
    forms = {source.split("/")[1] for shares in mixtures.values() for source in shares} - set(FORMS)
    interleave = {form: plain(asdict(read_interleaving(cards, form, overrides))) for form in sorted(forms)}
    trainings = read_trainings(phases, options)
    check_llm(trainings, mixtures)
    check_fusion(systems, trainings)
    encoder, stack = encoder_keys(trainings, options), bridge_stack(trainings)
    pieces = count_pieces(options)
    if hearing(trainings, mixtures):
        check_heard(options, stack)
    return Experiment(options, sets, systems, trainings, mixtures, interleave, encoder, stack, pieces)


def count_pieces(options):
    """`Experiment.pieces`. Raises UserError for an LLM that cannot be read."""
    if not (options.llm and trains_encoder(options)) or options.ctc_pieces == "all":
        return 0
    if options.ctc_pieces != "auto":
        return int(options.ctc_pieces)
    from espnet_llmvq.llm.directory import table_rows

    return PIECES if table_rows(options.llm) > SMALL_TABLE else 0


def check_heard(options, stack):
    """Raise UserError where text cannot be made as if heard."""
    if not (trains_encoder(options) or options.encoder_file):
        raise UserError("text as if heard is spelled by a CTC head; leave --ctc_head false out")
    if stack != 1:
        raise UserError(f"text as if heard has a step for each frame; it needs bridge_conf.stack 1, not {stack}")


def check_recognisers(systems, cards, pretrained):
    """Raise UserError for systems that are the recogniser itself, where `pretrained` cannot do what they ask of it."""
    for system in systems:
        if system.decode == "recogniser":
            where, card = cards.where("systems", system.name), system.recogniser
            if not pretrained:
                raise UserError(f"{where}: {NEEDED}")
            if isinstance(card["prompt_words"], str) and not os.path.exists(card["prompt_words"]):
                card = {**card, "prompt_words": ""}  # stage 1 may make it
            try:
                PretrainedRecogniser(pretrained, **asked(card), weights=False)
            except UserError as err:
                raise UserError(f"{where}: {err}") from None


def read_mixtures(cards, phases, options):
    """{name: {"SET/FORM": share}} of what phases train on. Raises UserError for sets that are none."""
    sets = [options.train_set, *([TTS] if options.tts_text else [])]
    texts = unique(pairs(options.texts, "texts"), "texts")
    for name in unique(pairs(options.ctms, "ctms"), "ctms"):
        check_name("set in --ctms", name, sets)
    found = {}
    for phase in phases:
        if phase.mixture and phase.mixture not in found:
            shares = read_mixture(cards, phase.mixture, sets, texts)
            found[phase.mixture] = {f"{name}/{form}": share for (name, form), share in shares.items()}
    return found


def read_trainings(phases, options):
    """The `Training`s of phases, before them that of the encoder, overrides laid over their configs."""
    overrides = read_overrides(words(options.train_overrides, "train_overrides"))
    check_config(overrides, "--train_overrides")
    found = []
    if trains_encoder(options):
        pretrained = options.pretrained_encoder
        path = options.encoder_config or ("conf/template/on_pretrained.yaml" if pretrained else "conf/encoder.yaml")
        config = {**read_config(path), **overrides}
        check_config(config, path)
        if pretrained:
            config = on_pretrained(config, pretrained, options.pretrained_layer or None, path)
        config = finished(config, options, path)
        found.append(Training("encoder", path, config, is_encoder=True))
    for phase in phases:
        config = {**phase.config, **overrides}
        check_config(config, phase.where)
        if options.pretrained_encoder and not trains_encoder(options):
            layer = options.pretrained_layer or None
            config = with_pretrained(config, options.pretrained_encoder, layer, phase.where)
        config = finished(config, options, phase.where)
        found.append(replace(phase, config=config))
    return tuple(found)


def check_llm(trainings, mixtures):
    """Raise UserError for an LLM that would train in half precision, and for text where nothing that reads it trains.

    The model says so too, when its phase has its turn (`model.freezing.check_precision`).
    """
    for training in trainings:
        trains, dtype = trained_parts(training)[0], (training.config.get("llm_conf") or {}).get("dtype", "float32")
        if "LLM" in trains and dtype != "float32":
            raise UserError(
                f"{training.where}: llm_conf.dtype is {dtype}, for a frozen LLM, but this one trains; leave it out "
                "(autocast is for speed), train LoRA (llm_conf.lora), or freeze the LLM (freeze: [llm])"
            )
        text = [source for source in mixtures.get(training.mixture, ()) if source.endswith("/text")]
        if text and not {"LLM", "LoRA"} & set(trains):
            raise UserError(
                f"{training.where}: mixture {training.mixture} has plain text ({text[0]}), but the LLM, which alone "
                "reads it, is frozen; train it or LoRA (llm_conf.lora), or leave the text out"
            )
        heard = [source for source in mixtures.get(training.mixture, ()) if source.endswith("/heard")]
        if heard and not {"LLM", "LoRA", "codebook"} & set(trains):
            raise UserError(
                f"{training.where}: mixture {training.mixture} has text as if heard ({heard[0]}), which encoder and "
                "projector do not see, but LLM and codebook are frozen; train one of them or LoRA (llm_conf.lora), or "
                "leave it out"
            )


def check_fusion(systems, trainings):
    """Raise UserError for a system with `decode: ctc_lm` whose last phase does not train the LLM."""
    last = {training.tag: training for training in trainings}
    for system in systems:
        if system.lm and not {"LLM", "LoRA"} & set(trained_parts(last[system.phases[-1]])[0]):
            raise UserError(
                f"{last[system.phases[-1]].where}: it is the last phase of {system.name}, which decodes with ctc_lm, "
                "and does not train the LLM; train it or LoRA (llm_conf.lora) there, or leave out the phases of "
                f"{system.name}"
            )


def finished(config, options, where):
    """A config with what follows from other keys. UserError for a learning rate that ends before the training."""
    config = split_batches({"best_model_criterion": CRITERION, **config}, options.accumulate, where)
    return with_schedule(config, where)


def given_encoder(options):
    """The config of the encoder of --encoder_file. Raises UserError."""
    return read_config(os.path.join(os.path.dirname(options.encoder_file), "config.yaml"))


def encoder_keys(trainings, options):
    """The keys of a training config that shape the encoder, which all systems share.

    Raises UserError for phases that name other pretrained encoders.
    """
    if trains_encoder(options) or options.encoder_file:
        config = given_encoder(options) if options.encoder_file else trainings[0].config
        return {key: config[key] for key in SHAPE if key in config}
    from espnet_llmvq.speech.pretrained import settings

    keys = (*settings(options.pretrained_encoder), "encoder_conf")
    if not trainings:
        return {key: with_pretrained({}, options.pretrained_encoder, None, "")[key] for key in keys}
    first, *others = trainings
    shaped = {key: first.config[key] for key in keys}
    for other in others:
        if {key: other.config[key] for key in keys} != shaped:
            raise UserError(
                f"{first.where} and {other.where} have other encoder_conf: {first.config['encoder_conf']} and "
                f"{other.config['encoder_conf']}; systems of one expdir share the encoder: give each its own --expdir"
            )
    return shaped
