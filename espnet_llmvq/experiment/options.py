"""Options of a recipe that say what a run is about: those of run.sh but for stages and machines."""

import shlex
from dataclasses import dataclass

from espnet_llmvq.base.config import option
from espnet_llmvq.base.errors import UserError


@dataclass(frozen=True)
class Options:
    """What a run is about, as it was asked for. `llmvq plan` has an option for each field."""

    expdir: str = option("exp", "models, hypotheses, results")
    datadir: str = option("data", "Kaldi data directories")
    dumpdir: str = option("dump", "formatted audio and sequences")
    seed: int = option(1, "of the systems; other than 1 it becomes part of their directories")
    base_seed: int = option(1, "of the language model, the encoder and mixtures, which all seeds share")
    cards: str = option("conf/systems.yaml", "systems, phases, mixtures and forms of interleaving (docs/config.md)")
    published: str = option("conf/published", "directory of papers' figures, printed beside ours")
    train_set: str = option("train", "training set")
    valid_set: str = option("valid", "validation set")
    test_sets: str = option("", 'pairs name:domain, domain id or ood, e.g. "test:id test_noise:ood"')
    systems: str = option("", "rows of the table: systems and groups of them")
    baseline: str = option("", "the system that others are compared with; the first, where it is not among them")
    tts_text: str = option("", 'Kaldi text to speak: its audio becomes the set "tts", for mixtures')
    tts_voices: str = option("en-us", "voices for it, dealt evenly")
    tts_command: str = option("", "another engine than espeak-ng: a template with {text} and {wav}")
    texts: str = option("", "plain texts for mixtures, pairs name=file, a document a line")
    speed_perturb_factors: str = option("", 'of the training set, e.g. "0.9 1.0 1.1"')
    audio_format: str = option("wav", "of converted audio", ("wav", "flac"))
    repeated_audio: bool = option(False, "utterances of a set may have the same audio")
    min_duration: float = option(0.2, "seconds; shorter training utterances are dropped")
    max_duration: float = option(20.0, "seconds; longer training utterances are dropped")
    prompt: str = option(
        "USER: {speech} ASSISTANT: {text}", 'template of a sequence; "chat: {speech} ..." in the LLM\'s chat format'
    )
    llm: str = option("", "Hugging Face directory or hub id; empty: train one on the recipe's text")
    lm_train_text: str = option(
        "", "text files for the tokenizer and the language model, one sentence a line; empty: DATADIR/lm/train.txt"
    )
    tokenizer_text: str = option("", "text files for the tokenizer alone; empty: lm_train_text")
    lm_valid_text: str = option("", "held-out texts, pairs name=file")
    vocab_size: int = option(500, "pieces of the trained tokenizer")
    whole_words: int = option(0, "most frequent words that are one piece each")
    reserved_tokens: str = option("", 'special tokens of the trained tokenizer, e.g. "<N>"')
    lm_config: str = option("conf/template/lm.yaml", "of the trained language model")
    encoder_file: str = option("", "checkpoint of an encoder; empty: train one (stage 7)")
    encoder_config: str = option(
        "", "of the trained encoder; empty: conf/encoder.yaml, on a pretrained one conf/template/on_pretrained.yaml"
    )
    pretrained_encoder: str = option("", "directory or hub id of WavLM or Whisper; empty: train an encoder")
    pretrained_layer: str = option("", "its layer: last, weighted or a number; empty: that of the phases, or last")
    ctc_head: bool = option(
        True, "train layers and a CTC head on the frozen pretrained encoder (stage 7); false: without"
    )
    ctc_pieces: str = option(
        "auto",
        "tokens of --llm that the CTC head spells with, beside letters; all; auto: 500 of a table above 4000 rows",
    )
    encoder_tts: bool = option(False, "train the encoder, or its head, on the speech of --tts_text too")
    cache_encoder: bool = option(True, "encode each set once and train all systems on the frames")
    augment_cache: bool = option(False, "encode the training set with the noise and masks of the encoder's training")
    align_sets: str = option("", "sets to align with the encoder's CTC, beside those that mixtures interleave")
    ctms: str = option("", "word times from elsewhere for sets that mixtures interleave, pairs set=file")
    interleave_overrides: str = option("", 'key=value pairs laid over every form of interleaving, e.g. "silence=0.3"')
    context: str = option("llm", "LLM positions that a sequence to train on may have; llm: as many as the LLM has")
    too_long: str = option("drop", "sequences that have more: left out and listed, or an error", ("drop", "refuse"))
    mixture_positions: int = option(0, "LLM positions of every mixture; 0: as many as give its first source once")
    num_beams: int = option(4, "beam of the LLM")
    tokens_per_second: float = option(0.0, "of speech, that a text may have, and 8 more; 0: as training found")
    draft: str = option(
        "none", "ctc: the LLM reads what the CTC head wrote, and searches greedily from there", ("none", "ctc")
    )
    draft_accept: float = option(
        1.0, "a token of the draft stands while it is so many times as probable as the LLM's best; 1: greedy search"
    )
    llm_dtype: str = option(
        "trained",
        "numbers that the LLM decodes with; trained: those of its training; auto: bfloat16 where its products are fast",
        ("trained", "float32", "bfloat16", "auto"),
    )
    joint_ctc: float = option(
        0.0, "weight of the CTC head within the search, which then weighs both at each word; 0: the LLM searches alone"
    )
    ctc_weight: str = option(
        "0", 'of the CTC score in choosing from n-best lists, 0 to 1; "valid": chosen on the validation set'
    )
    other_prompt: bool = option(False, "decode sequences whose prompt is not the one of training")
    questions: str = option("", "files of questions, pairs mc=FILE (multiple choice) and sqa=FILE (open)")
    question_examples: str = option("", "file of examples before multiple-choice questions; empty: their first ones")
    questions_config: str = option("", "how questions are put, YAML; see docs/scoring.md")
    normaliser: str = option("basic", "none, basic, whisper_basic, whisper_english, softvq")
    set_normalisers: str = option("", 'of single test sets, pairs name=normaliser, e.g. "test_phone=whisper_english"')
    set_metrics: str = option("", 'further metrics of test sets, pairs name=metric, e.g. "qa=bleu qa=chrf"')
    word_lists: str = option("", "pairs name=file: also WER inside and outside of a list, e.g. of rare words")
    resample: str = option("utterance", "what intervals and tests resample", ("utterance", "speaker"))
    train_overrides: str = option("", 'key=value pairs laid over every training config, e.g. "max_epoch=1"')
    accumulate: int = option(1, "parts of a batch, one after the other: less memory, as much in an optimizer step")
    ngpu: int = option(0, "GPUs of a machine that trains (0: CPU)")
    num_nodes: int = option(1, "machines that train together, each with --ngpu GPUs")
    title: str = option("", "of the report; empty: the directory above the recipe's")
    accept_versions: bool = option(
        False, "go on with results that other versions of libraries made, which is refused otherwise"
    )
    smoke: bool = option(False, "a handful of utterances and steps with tiny models")


def words(text, where):
    """The words of an option; a word with blanks stands in quotes. Raises UserError for a quote without its other."""
    try:
        return shlex.split(text)
    except ValueError as err:
        raise UserError(f"--{where} {text!r}: {err}") from None


def pairs(text, where):
    """[(name, value)] of "name=value ...", the name up to the first "=". Raises UserError for what is none."""
    found = []
    for word in words(text, where):
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(f"--{where} {word}: expected NAME=VALUE")
        found.append((name, value))
    return found


def unique(found, where):
    """{name: value} of pairs. Raises UserError for a name that comes twice."""
    for name, value in found:
        if [n for n, _ in found].count(name) > 1:
            raise UserError(f"--{where} gives {name} twice ({value} is one)")
    return dict(found)
