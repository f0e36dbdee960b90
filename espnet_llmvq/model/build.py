"""Building a model from a config: choosing its parts by name, checking the config, loading what was trained.

A config is a dict as in a YAML file: keys choose parts and files, `*_conf` holds keyword arguments.
"""

import contextlib
import inspect
import os

import torch
import yaml
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.train.class_choices import ClassChoices

from espnet_llmvq.base.errors import UserError, check_name, reading
from espnet_llmvq.base.precision import fast_bfloat16
from espnet_llmvq.bridge.bridge import BRIDGES
from espnet_llmvq.llm.directory import BLANK_TOKEN, load_llm, load_tokenizer, tokenizer_or_config
from espnet_llmvq.llm.ends import token_inputs
from espnet_llmvq.llm.packing import needs_gpu
from espnet_llmvq.llm.spelling import read_rows
from espnet_llmvq.model.alignment import AlignedStart
from espnet_llmvq.model.checkpoint import PRETRAINED, load_encoder, load_previous, load_weights
from espnet_llmvq.model.ctc import CTCHead, PieceHead
from espnet_llmvq.model.speech_llm import SpeechLLM
from espnet_llmvq.speech.encoder import SpeechEncoder
from espnet_llmvq.speech.frame_rate import is_frontend
from espnet_llmvq.speech.frontend import Frontend
from espnet_llmvq.speech.pretrained import AS_IT_IS, CLASSES

with contextlib.redirect_stdout(None):  # as in speech/encoder.py
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
    from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

frontend_choices = ClassChoices(
    "frontend",
    dict(default=Frontend, **CLASSES),
    type_check=torch.nn.Module,  # ESPnet's are AbsFrontends
    default="default",
    optional=True,
)
specaug_choices = ClassChoices("specaug", dict(specaug=SpecAug), type_check=AbsSpecAug, optional=True)
normalize_choices = ClassChoices(
    "normalize",
    dict(global_mvn=GlobalMVN, utterance_mvn=UtteranceMVN),
    type_check=AbsNormalize,
    default="utterance_mvn",
    optional=True,
)
encoder_choices = ClassChoices(
    "encoder",
    dict(conformer=ConformerEncoder, transformer=TransformerEncoder, e_branchformer=EBranchformerEncoder, **CLASSES),
    type_check=torch.nn.Module,  # ESPnet's are AbsEncoders, the pretrained ones stand for frontend and encoder
    default="conformer",
)
CHOICES = (frontend_choices, specaug_choices, normalize_choices, encoder_choices)
# What `build` reads, and what it takes where a config lacks it.
DEFAULTS = {
    **{choices.name: choices.default for choices in CHOICES},
    **{f"{choices.name}_conf": {} for choices in CHOICES},
    "frame_stack": 1, "encoder_file": None, "train_encoder": False, "ctc": True, "ctc_conf": {}, "ctc_tokens": None,
    "bridge": "none", "bridge_conf": {}, "llm": None, "llm_conf": {}, "aligned_start_conf": {},
    "model_conf": {}, "freeze": [], "autocast": "auto", "init_from": None, "ngpu": 0,
}  # fmt: skip


CTC_TOKENS = {"input_size", "vocab_size", "blank", "rows", "ids"}  # of a head, which follow from its tokens


def signature_keys(function):
    """Names of the keyword arguments of a function or a class, base classes included."""
    parts = [function]
    if inspect.isclass(function):
        parts = [vars(cls)["__init__"] for cls in function.__mro__[:-1] if "__init__" in vars(cls)]
    return {name for part in parts for name in inspect.signature(part).parameters} - {"self", "args", "kwargs", "cls"}


def check_config(config, where="config", others=None):
    """Raise UserError, with the nearest valid name, for a key that nothing reads.

    others: {key: names of its keyword arguments, or None} of what a training reads beside the keys of a model.
    """
    parameters = inspect.signature(SpeechLLM.__init__).parameters.values()
    nested = {
        "model_conf": {p.name for p in parameters if p.kind is p.KEYWORD_ONLY},
        "llm_conf": signature_keys(load_llm) - {"path", "weights"},
        "aligned_start_conf": signature_keys(AlignedStart) - {"embedding", "blank"},
        "ctc_conf": (signature_keys(CTCHead) | signature_keys(PieceHead)) - CTC_TOKENS,
        **{key: names for key, names in (others or {}).items() if names is not None},
    }
    name = config.get("bridge", "none") or "none"
    nested["bridge_conf"] = signature_keys(BRIDGES[check_name("bridge", name, BRIDGES)]) - {"input_size", "embedding"}
    for choices in CHOICES:
        name = config.get(choices.name, choices.default)
        if name is not None:
            check_name(choices.name, name, choices.classes)
            nested[f"{choices.name}_conf"] = signature_keys(choices.get_class(name))
    known = {*DEFAULTS, *(others or {})}
    for key, value in config.items():
        check_name(f"key in {where}", key, known)
        for inner in value if key in nested and isinstance(value, dict) else ():
            check_name(f"key under {key} in {where}", inner, nested[key])
    dtype = (config.get("llm_conf") or {}).get("dtype", "float32")
    check_name(f"llm_conf.dtype in {where}", dtype, ("float32", "bfloat16", "float16"))


def encoder_config(encoder_file):
    """The config.yaml beside an encoder checkpoint, a dict. Raises UserError when one is missing."""
    config = os.path.join(os.path.dirname(encoder_file), "config.yaml")
    for path in (encoder_file, config):
        if not os.path.exists(path):
            raise UserError(f"encoder {path} does not exist; run stage 7 or give --encoder_file")
    with reading(config, "run stage 7 again without this directory"), open(config, encoding="utf-8") as f:
        return with_pieces(yaml.safe_load(f), os.path.dirname(encoder_file))


def with_pieces(config, directory):
    """The config of an encoder in `directory`, its spelling pieces where they are now: beside that directory.

    Its path to them is that of the working directory then, in which another run may have others.
    """
    there = config.get("ctc_tokens")
    if not there or config.get("encoder_file"):
        return config
    here = os.path.normpath(os.path.join(directory, os.pardir, os.path.basename(there)))
    return {**config, **{key: here for key in ("llm", "ctc_tokens") if config.get(key) == there}}


def with_encoder(config):
    """The config with all that shapes the encoder and its CTC head, where it has an `encoder_file`: from the config
    beside that."""
    path = config.get("encoder_file")
    if not path:
        return config
    trained = encoder_config(path)
    for key in ("preencoder", "postencoder"):
        if trained.get(key) is not None:
            raise UserError(f"{path}: trained with a {key} ({trained[key]}), which is not supported")
    check_name(f"encoder of {path}", trained["encoder"], encoder_choices.classes)
    if trained["frontend"] is not None:
        check_name(f"frontend of {path}", trained["frontend"], frontend_choices.classes)
    keys = [key for name in ("frontend", "normalize", "encoder") for key in (name, f"{name}_conf")]
    shape = {key: trained[key] for key in keys}
    shape |= {key: trained[key] for key in ("ctc_conf", "ctc_tokens") if trained.get("ctc_tokens")}
    masks = ("specaug", "specaug_conf")
    # The frames of another encoder were masked in its training, those of a pretrained one still can be.
    shape |= {key: trained[key] for key in masks} if is_frontend(trained) else {"specaug": None}
    return {**config, **shape, "frame_stack": trained.get("frame_stack", 1)}


def build_speech_encoder(config, weights=True):
    """The encoder of a config with all keys; without `weights`, those of a pretrained one are not read."""
    if config["encoder"] in CLASSES:
        for key, value in AS_IT_IS.items():
            if config[key] != value:
                raise UserError(
                    f"encoder: {config['encoder']} takes the waveform as it is: write {key}: "
                    f"{'null' if value is None else value}, not {config[key]}"
                )
        conf = config["encoder_conf"] if weights else {**config["encoder_conf"], "weights": False}
        return CLASSES[config["encoder"]](**conf)
    if config["frontend"] is None:
        raise UserError(f"encoder: {config['encoder']} needs a frontend; write frontend: default")

    def part(choices, **options):
        name = config[choices.name]
        if name in CLASSES and not weights:
            options["weights"] = False
        return None if name is None else choices.get_class(name)(**{**config[f"{choices.name}_conf"], **options})

    frontend, specaug, normalize = (part(choices) for choices in (frontend_choices, specaug_choices, normalize_choices))
    encoder = part(encoder_choices, input_size=frontend.output_size() * config["frame_stack"])
    return SpeechEncoder(frontend, normalize, specaug, encoder, config)


def build_ctc(config, input_size, tokenizer, blank):
    """The CTC head of a config, or None. blank: id of the blank token, None if the tokenizer reserves none."""
    if not config["ctc"]:
        return None
    for key in config["ctc_conf"]:  # each head has its own
        known = signature_keys(PieceHead if config["ctc_tokens"] else CTCHead) - CTC_TOKENS
        check_name("key under ctc_conf", key, known)
    if config["ctc_tokens"]:
        return PieceHead(input_size, *read_rows(config["ctc_tokens"]), **config["ctc_conf"])
    # A downloaded tokenizer reserves no blank: the head then has one row more than there are tokens.
    rows, at = (len(tokenizer) + 1, len(tokenizer)) if blank is None else (len(tokenizer), blank)
    return CTCHead(input_size, rows, at, **config["ctc_conf"])


def check_pieces(config, tokenizer, ids):
    """Raise UserError for a tokenizer of which `ids` (P,) are other tokens than the pieces of a CTC head, and for a CTC
    loss of its transcripts, which are no pieces."""
    pieces = load_tokenizer(config["ctc_tokens"])
    if tokenizer.get_vocab() == pieces.get_vocab():  # the head alone
        return
    if config["model_conf"].get("ctc_weight"):
        raise UserError(
            "model_conf.ctc_weight: the CTC head has spelling pieces, and this phase the tokens of the LLM; leave it "
            "out, or train the head over all tokens (--ctc_pieces all)"
        )
    if pieces.convert_ids_to_tokens(range(len(ids))) != tokenizer.convert_ids_to_tokens(ids.tolist()):
        raise UserError(
            f"{config['llm']} has other tokens than the LLM of which the CTC head has its pieces "
            f"({config['ctc_tokens']}); train an encoder with this LLM (stage 7, in another --expdir)"
        )


def frozen_and_external(config, has_ctc, trains_ctc):
    """(patterns of parameters that do not train, prefixes of tensors that come from elsewhere)."""
    freeze, external = list(config["freeze"]), ["llm."]
    if config["encoder_file"]:
        external += ["speech_encoder.", "ctc."]
        freeze += ["ctc"] * has_ctc + ["speech_encoder"] * (not config["train_encoder"])
        return freeze, external
    if is_frontend(config):  # which parts of it are frozen it knows itself
        external += [PRETRAINED[1]] if config["frontend_conf"].get("weights", True) else []
    elif config["encoder"] in CLASSES:
        external += [PRETRAINED[0]] if config["encoder_conf"].get("weights", True) else []
        freeze += [] if config["train_encoder"] else [PRETRAINED[0]]
    elif config["train_encoder"]:
        raise UserError("train_encoder is for a pretrained encoder; without one the encoder trains")
    return freeze + ["ctc"] * (has_ctc and not trains_ctc), external


def build(config, weights=True):
    """The `SpeechLLM` of a config, with its LLM and, where given, its pretrained encoder and the phase before loaded.

    weights: false: its shapes alone, on the meta device; of an LLM, config.json is enough. Raises UserError.
    """
    config = with_encoder({**DEFAULTS, **config})
    if config["llm"] is None:
        raise UserError("--llm is needed: it gives the tokenizer and the embedding table")
    with contextlib.nullcontext() if weights else torch.device("meta"):
        model = _assembled(config, weights)
    if weights:
        if model.packing and not needs_gpu(model.llm):
            model.check_packing()
        if config["encoder_file"]:
            load_encoder(model, config["encoder_file"])
            if model.aligned_start is not None and model.aligned_start.targets == "ctc_head":
                model.aligned_start.begin_as(model.bridge, model.ctc)
        if config["init_from"]:
            load_previous(model, config["init_from"])
    return model


def _assembled(config, weights):
    """The parts of a model, put together; nothing of it trained yet but the LLM and a pretrained encoder."""
    tokenizer = (load_tokenizer if weights else tokenizer_or_config)(config["llm"])
    blank = tokenizer.convert_tokens_to_ids(BLANK_TOKEN)
    blank = None if blank in (None, tokenizer.unk_token_id) else blank
    speech_encoder = build_speech_encoder(config, weights)
    ctc = build_ctc(config, speech_encoder.output_size(), tokenizer, blank)
    if weights and isinstance(ctc, PieceHead):
        check_pieces(config, tokenizer, ctc.ids)
    conf = {"ctc_weight": 0.0, "start_weight": 0.0, "llm_weight": 1.0, **config["model_conf"]}
    llm = bridge = start = None
    if conf["llm_weight"] or conf["start_weight"]:
        llm = load_llm(config["llm"], weights=weights, **config["llm_conf"])
        table = token_inputs(llm)
        bridge = BRIDGES[config["bridge"]](speech_encoder.output_size(), table, **config["bridge_conf"])
        if conf["start_weight"]:
            start = AlignedStart(table, blank=blank, **config["aligned_start_conf"])
        if not conf["llm_weight"]:
            llm = None
    freeze, external = frozen_and_external(config, ctc is not None, bool(conf["ctc_weight"]))
    autocast = config["autocast"] == "bfloat16" or (config["autocast"] == "auto" and fast_bfloat16(config["ngpu"]))
    freeze = [pattern for pattern in freeze if llm is not None or not pattern.startswith("llm")]
    return SpeechLLM(
        speech_encoder, ctc, bridge, llm, start, tokenizer.eos_token_id, freeze, external, autocast, **conf
    )


def load_model(directory, device="cpu", file="model.pth"):
    """The trained model of an experiment directory, strict and `weights_only`: (model in eval mode, config)."""
    path = os.path.join(directory, "config.yaml")
    if not os.path.exists(os.path.join(directory, file)):
        raise UserError(f"{os.path.join(directory, file)} does not exist; run stage 11 (stage 7: the encoder)")
    remedy = f"remove {directory} and run stage 11 (stage 7: the encoder)"
    with reading(path, remedy), open(path, encoding="utf-8") as f:
        config = {**DEFAULTS, **yaml.safe_load(f), "init_from": None, "autocast": "none"}
    config = with_encoder(with_pieces(config, directory))
    model = build(config)
    model.load_state_dict(load_weights(os.path.join(directory, file), "cpu", "and run stage 11 (stage 7: the encoder)"))
    return model.to(device).eval(), config
