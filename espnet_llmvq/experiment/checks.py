"""What options of a run cannot be, told before anything costs time."""

import os
from pathlib import Path

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_path
from espnet_llmvq.experiment.options import pairs, words

# The least that options may be.
LEAST = {
    "num_beams": 1, "vocab_size": 1, "num_nodes": 1, "mixture_positions": 0, "whole_words": 0, "seed": 0,
    "base_seed": 0, "ngpu": 0, "tokens_per_second": 0,
}  # fmt: skip
# Keys of a training config that follow from the options and from what is made, and those that must be whole numbers.
DATA_KEYS = ("data_path_and_name_and_type", "shape_file", "cache")
OWN = {
    "seed": "it is --seed or --base_seed", "ngpu": "it is --ngpu", "llm": "it is --llm", "output_dir": "it is --expdir",
    "encoder_file": "it is --encoder_file", "ctc_tokens": "it is --ctc_pieces", "init_from": "it is the phase before",
    **{f"{part}_{key}": "it is what the stages made" for part in ("train", "valid") for key in DATA_KEYS},
}  # fmt: skip
COUNTS = ("accum_grad", "max_epoch", "num_iters_per_epoch", "batch_size", "batch_bins")


def check_options(options):
    """Raise UserError for options that contradict each other or name what cannot be."""
    from espnet_llmvq.data.normalise import get_normaliser
    from espnet_llmvq.sequence.prompt import CHAT, parse

    if not words(options.systems, "systems"):
        raise UserError("--systems is empty; call ./run.sh, which names them")
    if options.pretrained_encoder and options.encoder_file:
        raise UserError("give --pretrained_encoder or --encoder_file, not both")
    if options.pretrained_layer and not options.pretrained_encoder:
        raise UserError("--pretrained_layer is for --pretrained_encoder")
    if options.ctc_head and options.pretrained_layer == "weighted":
        raise UserError("--pretrained_layer weighted trains with the phases: it needs --ctc_head false")
    if options.encoder_tts and not options.tts_text:
        raise UserError("--encoder_tts is for the speech that --tts_text becomes: give that too, or leave it out")
    if options.ctc_pieces not in ("auto", "all"):
        if not (options.ctc_pieces.isdecimal() and int(options.ctc_pieces)):
            raise UserError(f"--ctc_pieces {options.ctc_pieces!r}: expected a number from 1, all or auto")
        if not options.llm:
            raise UserError("--ctc_pieces are tokens of an LLM that is there: give --llm, or leave it out")
    if options.question_examples and "mc" not in dict(pairs(options.questions, "questions")):
        raise UserError("--question_examples is for multiple choice: --questions mc=FILE")
    for kind, _ in pairs(options.questions, "questions"):
        check_name("kind of --questions", kind, ("mc", "sqa"))
    stems = [f"{kind}={Path(path).stem}" for kind, path in pairs(options.questions, "questions")]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UserError(f"--questions: two files would share the results of {stem}; give one of them another name")
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} {getattr(options, name)} must be {least} or more")
    if not 0 <= options.min_duration < options.max_duration:
        raise UserError(f"--min_duration {options.min_duration} must be 0 or more, and below --max_duration")
    if options.context != "llm" and not (options.context.isdecimal() and int(options.context) > 0):
        raise UserError(f"--context {options.context!r}: expected a number of positions, or llm")
    read_weight(options.draft_accept, "--draft_accept")
    if options.draft == "none" and options.draft_accept != 1:
        raise UserError("--draft_accept is for --draft ctc")
    if options.draft == "ctc" and options.pretrained_encoder and not options.ctc_head:
        raise UserError("--draft ctc needs a CTC head: leave --ctc_head false out")
    if read_weight(options.joint_ctc, "--joint_ctc") == 1:
        raise UserError("--joint_ctc 1 leaves the LLM out: the system `ctc` does so")
    if options.joint_ctc and (options.draft != "none" or options.num_beams == 1):
        raise UserError("--joint_ctc is a beam search of its own: give --draft none, and --num_beams 5 or another one")
    if options.joint_ctc and options.tokens_per_second:
        raise UserError("--tokens_per_second is no limit of --joint_ctc, whose texts cannot outgrow what CTC heard")
    if options.joint_ctc and options.pretrained_encoder and not options.ctc_head:
        raise UserError("--joint_ctc needs a CTC head: leave --ctc_head false out")
    if options.ctc_weight != "valid":
        read_weight(options.ctc_weight, "--ctc_weight")
    for name in (options.normaliser, *(value for _, value in pairs(options.set_normalisers, "set_normalisers"))):
        get_normaliser(name)
    if options.llm:
        check_path(options.llm)
    if not options.prompt.startswith(CHAT):  # in the chat format of a tokenizer that may not be there yet
        parse(options.prompt)
    for name, used in (("lm_config", not options.llm), ("questions_config", options.questions_config)):
        if used and not os.path.isfile(getattr(options, name)):
            raise UserError(f"--{name} {getattr(options, name)} does not exist; name a file of the recipe's conf/")
    if options.tts_text and not words(options.tts_voices, "tts_voices"):
        raise UserError("--tts_voices is empty; name one, such as en-us, to speak --tts_text")
    check_factors(words(options.speed_perturb_factors, "speed_perturb_factors"))
    for name in ("expdir", "encoder_file"):
        if "{set}" in getattr(options, name):
            raise UserError(f"--{name} {getattr(options, name)}: {{set}} stands for the name of a set; leave it out")


def check_factors(factors):
    """Raise UserError for speeds that are no numbers from 0.1 to 10, or that come twice."""
    try:
        speeds = [float(factor) for factor in factors]
    except ValueError:
        speeds = [0.0]
    if not all(0.1 <= speed <= 10 for speed in speeds) or len(set(speeds)) < len(speeds):
        raise UserError(f"--speed_perturb_factors {' '.join(factors)}: expected numbers from 0.1 to 10, each once")


def check_config(config, where):
    """Raise UserError for keys of a training config that a run sets itself, and for values of another type."""
    for key, value in config.items():
        if key in OWN:
            raise UserError(f"{where}: {key} is set by the run ({OWN[key]}); leave it out")
        if str(key).endswith("_conf") and not isinstance(value, dict | None):
            raise UserError(f"{where}: {key} is {value!r}; it must be keys and values, such as {{a: 1}}, or null")
        if key in COUNTS and not (value is None and key == "num_iters_per_epoch"):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{where}: {key} is {value!r}; it must be a whole number of 1 or more")


def check_hypotheses(systems, names):
    """Raise UserError for two systems, or two of the sets `names`, that would write to one file of hypotheses.

    Systems that decode one model in one way share their hypotheses.
    """
    found = {}
    for system in systems:
        for name in names:
            path = str(system.hyp_path(name))
            other, decode, of = found.setdefault(path, (system.name, system.decode, name))
            if (decode, of) != (system.decode, name):
                raise UserError(
                    f"system {other} on {of} and system {system.name} on {name} would both write {path}; give one of "
                    "the systems or sets another name"
                )


def read_weight(text, where):
    """A weight from 0 to 1. Raises UserError."""
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise UserError(f"{where} {text!r}: expected a number from 0 to 1")
    return weight
