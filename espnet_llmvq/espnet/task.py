"""`SpeechLLMTask`: ESPnet's AbsTask for models whose encoder, bridge and causal LM are chosen by config."""

import inspect
import logging
import os
import sys
from unittest import mock

import torch
import yaml
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.tasks.abs_task import AbsTask, optim_classes, scheduler_classes
from espnet2.train.class_choices import ClassChoices
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool, str_or_none

from espnet_llmvq.base.errors import UserError, check_name, reading
from espnet_llmvq.base.precision import fast_bfloat16
from espnet_llmvq.bridge.bridge import Bridge, HardBridge, SoftBridge
from espnet_llmvq.espnet.trainer import SpeechLLMTrainer, load_weights
from espnet_llmvq.llm.directory import BLANK_TOKEN, load_llm, load_tokenizer
from espnet_llmvq.model.alignment import AlignedStart
from espnet_llmvq.model.batch import Augmenter, SequencePreprocessor, collate
from espnet_llmvq.model.speech_llm import CTCHead, SpeechLLM
from espnet_llmvq.speech.encoder import SpeechEncoder
from espnet_llmvq.speech.frame_rate import PRETRAINED, step_samples
from espnet_llmvq.speech.pretrained import AS_IT_IS, CLASSES, changes_frames

frontend_choices = ClassChoices(
    "frontend", dict(default=DefaultFrontend), type_check=AbsFrontend, default="default", optional=True
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
# Tensors of a pretrained encoder, which come from its own directory.
FROM_PATH = "speech_encoder.pretrained."
# "none" is a reserved word of ESPnet's choices, so the bridge has its own small table.
BRIDGES = {"none": Bridge, "hard": HardBridge, "soft": SoftBridge}


def signature_keys(*functions):
    """Names of the keyword arguments of classes, base classes included."""
    keys = set()
    for function in functions:
        for cls in inspect.getmro(function) if inspect.isclass(function) else (function,):
            if cls is not object and "__init__" in vars(cls) or not inspect.isclass(cls):
                target = cls.__init__ if inspect.isclass(cls) else cls
                keys |= set(inspect.signature(target).parameters)
    return keys - {"self", "args", "kwargs", "cls"}


class SpeechLLMTask(AbsTask):
    num_optimizers = 1
    trainer = SpeechLLMTrainer
    class_choices_list = [frontend_choices, specaug_choices, normalize_choices, encoder_choices]

    @classmethod
    def add_task_arguments(cls, parser):
        parser.set_defaults(required=["output_dir"])
        group = parser.add_argument_group(description="Speech LLM")
        group.add_argument("--llm", type=str_or_none, help="Hugging Face directory or hub id of a causal LM")
        group.add_argument(
            "--llm_conf",
            action=NestedDictAction,
            default=dict(),
            help="dtype, gradient_checkpointing, attn_implementation, lora: keyword arguments of peft.LoraConfig",
        )
        group.add_argument("--bridge", default="none", choices=sorted(BRIDGES), help="The bridge type")
        group.add_argument(
            "--bridge_conf", action=NestedDictAction, default=dict(), help="Keyword arguments of the bridge"
        )
        group.add_argument("--aligned_start_conf", action=NestedDictAction, default=dict(), help="temperature, targets")
        group.add_argument(
            "--prompt", type=str_or_none, help="Template of the validation sequences, written by training"
        )
        group.add_argument("--ctc", type=str2bool, default=True, help="Give the encoder a CTC head")
        group.add_argument("--ctc_conf", action=NestedDictAction, default=dict(), help="dropout_rate")
        group.add_argument("--frame_stack", type=int, default=1, help="Feature frames stacked into one encoder input")
        group.add_argument(
            "--encoder_file",
            type=str_or_none,
            help="Checkpoint with frontend, normalisation, encoder and CTC head; they are frozen",
        )
        group.add_argument(
            "--train_encoder", type=str2bool, default=False, help="Train the pretrained encoder; not its CTC head"
        )
        group.add_argument(
            "--model_conf",
            action=NestedDictAction,
            default=dict(),
            help="ctc_weight, start_weight, llm_weight, drop_blank, merge_runs, span_encoding, packing",
        )
        group.add_argument("--freeze", type=str, nargs="*", default=[], help="Regular expressions of frozen parameters")
        group.add_argument(
            "--autocast",
            type=str,
            default="auto",
            choices=["auto", "bfloat16", "none"],
            help="bfloat16 in our own forward; auto: where the hardware is faster in it",
        )
        group.add_argument("--init_from", type=str_or_none, help="Checkpoint of the phase before")
        group.add_argument("--train_cache", type=str_or_none, help="Encoder frames of the training set (scp)")
        group.add_argument("--valid_cache", type=str_or_none, help="Encoder frames of the validation set")
        group.add_argument("--augment_conf", action=NestedDictAction, default=dict(), help="Noise added in training")
        for choices in cls.class_choices_list:
            choices.add_arguments(group)

    @classmethod
    def get_default_config(cls):
        """Every key with its default (dict). ESPnet's own would read the command line of whoever asks, too."""
        with mock.patch.object(sys, "argv", sys.argv[:1]):
            return super().get_default_config()

    @classmethod
    def check_config(cls, config, where="config"):
        """Raise UserError, with the nearest valid name, for a key that nothing reads.

        config: dict as in a YAML file: keys are options, `*_conf` holds keyword arguments.
        """
        known = {a.dest for a in cls.get_parser()._actions}
        model_keys = set(inspect.signature(SpeechLLM.__init__).parameters) - {
            "self", "speech_encoder", "ctc", "bridge", "llm", "aligned_start", "eos_id", "freeze", "sourced",
            "autocast",
        }  # fmt: skip
        nested = {
            "model_conf": model_keys,
            "llm_conf": {"dtype", "lora", "gradient_checkpointing", "attn_implementation"},
            "aligned_start_conf": {"temperature", "targets"},
            "ctc_conf": {"dropout_rate"},
            "augment_conf": signature_keys(Augmenter),
        }
        name = config.get("bridge", "none") or "none"
        nested["bridge_conf"] = signature_keys(BRIDGES[check_name("bridge", name, BRIDGES)])
        nested["bridge_conf"] -= {"input_size", "embedding"}
        for choices in cls.class_choices_list:
            name = config.get(choices.name, choices.default)
            if name is not None:
                check_name(choices.name, name, choices.classes)
                nested[f"{choices.name}_conf"] = signature_keys(choices.get_class(name))
        for key, classes in (("optim", optim_classes), ("scheduler", scheduler_classes)):
            if config.get(key) is not None:
                check_name(key, config[key], classes)
                nested[f"{key}_conf"] = signature_keys(classes[config[key]]) - {"params", "optimizer"}
        # Training writes it, a config cannot.
        known -= {"prompt"}
        for key, value in config.items():
            check_name(f"key in {where}", key, known)
            for inner in value if key in nested and isinstance(value, dict) else ():
                check_name(f"key under {key} in {where}", inner, nested[key])
        dtype = (config.get("llm_conf") or {}).get("dtype", "float32")
        check_name(f"llm_conf.dtype in {where}", dtype, ("float32", "bfloat16", "float16"))

    @classmethod
    def build_collate_fn(cls, args, train):
        return collate

    @classmethod
    def build_preprocess_fn(cls, args, train):
        tokenizer = load_tokenizer(args.llm)
        cache = args.train_cache if train else args.valid_cache
        augment = Augmenter(**args.augment_conf) if train and args.augment_conf else None
        if cache and changes_frames(vars(args), args.encoder_file):
            raise UserError(
                "cached frames are those of the encoder before training, and train_encoder or layer: weighted changes "
                "them; train without a cache"
            )
        if cache and augment:
            raise UserError("augment_conf has no effect on cached encoder frames; remove one of the two")
        if args.encoder_file:
            inherit_encoder(args)
        step = step_samples(args.frontend_conf, args.frame_stack, args.encoder_conf, args.encoder)
        return SequencePreprocessor(tokenizer, tokenizer.eos_token_id, cache, augment, step)

    @classmethod
    def required_data_names(cls, train=True, inference=False):
        return ("sequence",)

    @classmethod
    def optional_data_names(cls, train=True, inference=False):
        return ()

    @classmethod
    def build_speech_encoder(cls, args):
        """The encoder described by `args`, untrained."""
        if args.encoder_file:
            inherit_encoder(args)
        if args.encoder in PRETRAINED:
            for key, value in AS_IT_IS.items():
                if getattr(args, key) != value:
                    raise UserError(
                        f"encoder: {args.encoder} takes the waveform as it is: write {key}: "
                        f"{'null' if value is None else value}, not {getattr(args, key)}"
                    )
            return CLASSES[args.encoder](**args.encoder_conf)
        if args.frontend is None:
            raise UserError(f"encoder: {args.encoder} needs a frontend; write frontend: default")
        frontend = frontend_choices.get_class(args.frontend)(**args.frontend_conf)
        specaug = normalize = None
        if args.specaug is not None:
            specaug = specaug_choices.get_class(args.specaug)(**args.specaug_conf)
        if args.normalize is not None:
            normalize = normalize_choices.get_class(args.normalize)(**args.normalize_conf)
        encoder = encoder_choices.get_class(args.encoder)(
            input_size=frontend.output_size() * args.frame_stack, **args.encoder_conf
        )
        conf = {"frontend": args.frontend_conf, "encoder": args.encoder_conf}
        return SpeechEncoder(frontend, normalize, specaug, encoder, args.frame_stack, conf)

    @classmethod
    def build_model(cls, args):
        """Build `SpeechLLM`, with its LLM and, where given, its pretrained encoder loaded."""
        weights = {"ctc_weight": 0.0, "start_weight": 0.0, "llm_weight": 1.0, **args.model_conf}
        if args.llm is None:
            raise UserError("--llm is needed: it gives the tokenizer and the embedding table")
        tokenizer = load_tokenizer(args.llm)
        speech_encoder = cls.build_speech_encoder(args)
        blank = tokenizer.convert_tokens_to_ids(BLANK_TOKEN)
        blank = None if blank in (None, tokenizer.unk_token_id) else blank
        ctc = None
        if args.ctc:
            # A downloaded tokenizer reserves no blank: the head then has one row more than there are tokens.
            rows, at = (len(tokenizer) + 1, len(tokenizer)) if blank is None else (len(tokenizer), blank)
            ctc = CTCHead(speech_encoder.output_size(), rows, at, **args.ctc_conf)
        llm = bridge = start = None
        if weights["llm_weight"] or weights["start_weight"]:
            llm = load_llm(args.llm, **args.llm_conf)
            table = llm.get_input_embeddings().weight
            bridge = BRIDGES[args.bridge](speech_encoder.output_size(), table, **args.bridge_conf)
            if weights["start_weight"]:
                start = AlignedStart(table, blank=blank, **args.aligned_start_conf)
            if not weights["llm_weight"]:
                llm = None
        freeze, sourced = list(args.freeze), ["llm."]
        if args.encoder_file:
            sourced += ["speech_encoder.", "ctc."]
            freeze += ["ctc"] if ctc is not None else []
            freeze += [] if trains_encoder(args) else ["speech_encoder"]
        else:
            if args.encoder in PRETRAINED:
                sourced += [FROM_PATH] if args.encoder_conf.get("weights", True) else []
                freeze += [] if trains_encoder(args) else [FROM_PATH]
            elif trains_encoder(args):
                raise UserError("train_encoder is for a pretrained encoder; without one the encoder trains")
            if not weights["ctc_weight"] and ctc is not None:
                freeze += ["ctc"]
        model = SpeechLLM(
            speech_encoder,
            ctc,
            bridge,
            llm,
            start,
            tokenizer.eos_token_id,
            freeze=[f for f in freeze if llm is not None or not f.startswith("llm")],
            sourced=sourced,
            autocast=args.autocast == "bfloat16" or (args.autocast == "auto" and fast_bfloat16(args.ngpu)),
            **weights,
        )
        if args.encoder_file:
            load_encoder(model, args.encoder_file)
        if getattr(args, "init_from", None):
            load_previous(model, args.init_from)
        return model


def trains_encoder(args):
    """Whether the encoder goes on training after it was loaded."""
    return getattr(args, "train_encoder", False)  # models of before do not know the key


def encoder_config(encoder_file):
    """config.yaml beside an encoder checkpoint, as a dict. Raises UserError when one is missing."""
    config = os.path.join(os.path.dirname(encoder_file), "config.yaml")
    for path in (encoder_file, config):
        if not os.path.exists(path):
            raise UserError(f"encoder {path} does not exist; run stage 7 or give --encoder_file")
    with reading(config, "run stage 7 again without this directory"), open(config, encoding="utf-8") as f:
        return dict(yaml.safe_load(f))


def inherit_encoder(args):
    """Take everything that shapes the encoder from the config beside its checkpoint."""
    config = encoder_config(args.encoder_file)
    for key in ("preencoder", "postencoder"):
        if config.get(key) is not None:
            raise UserError(f"{args.encoder_file}: trained with a {key} ({config[key]}), which is not supported")
    check_name(f"encoder of {args.encoder_file}", config["encoder"], encoder_choices.classes)
    if config["frontend"] is not None:
        check_name(f"frontend of {args.encoder_file}", config["frontend"], frontend_choices.classes)
    for key in ("frontend", "normalize", "encoder"):
        setattr(args, key, config[key])
        setattr(args, f"{key}_conf", config[f"{key}_conf"])
    args.frame_stack = config.get("frame_stack", 1)
    args.specaug = None


def load_encoder(model, path):
    """Load frontend, normalisation, encoder and CTC head from a checkpoint of ours or of ESPnet's ASR task.

    Raises UserError that names the tensors that are missing or have other shapes.
    """
    state = load_weights(path, "cpu", "and make it again")
    # ESPnet's ASR model has `encoder.`, `normalize.` at its top; ours hold them in `speech_encoder.`.
    state = {
        ("speech_encoder." + k if k.startswith(("frontend.", "normalize.", "encoder.")) else k): v
        for k, v in state.items()
    }
    own = torch.nn.Module.state_dict(model)
    wanted = [n for n in own if n.startswith(("speech_encoder.", "ctc."))]
    if not any(n.startswith(FROM_PATH) for n in state):
        # It was frozen in that training, and is read from its own directory now as then.
        wanted = [n for n in wanted if not n.startswith(FROM_PATH)]
    bad = [n for n in wanted if n not in state or state[n].shape != own[n].shape]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise UserError(f"{path} lacks {len(bad)} encoder tensors: {', '.join(bad[:8])}{more}")
    torch.nn.Module.load_state_dict(model, {n: state[n] for n in wanted}, strict=False)
    logging.info(f"Loaded {len(wanted)} encoder tensors from {path}")


def load_previous(model, path):
    """Start from the phase before: every tensor that both have.

    What only the model has keeps its first value (LoRA, a trainable codebook: declared as new); what only the
    file has must belong to a part the model lacks. Raises UserError for differing shapes, no overlap, and what
    was trained but is frozen now, as checkpoints of this phase would lack it.
    """
    state = load_weights(path, "cpu", "and make it again")
    own = torch.nn.Module.state_dict(model)
    shared = {n: v for n, v in state.items() if n in own}
    lost = [n for n in model.omitted() if n in shared]
    if lost:
        raise UserError(
            f"{path}: the phase before trained {lost[0].partition('.')[0]} ({len(lost)} tensors), this one would go "
            "back to what it was before; train it in this phase too"
        )
    shapes = [n for n, v in shared.items() if v.shape != own[n].shape]
    if shapes or not shared:
        raise UserError(f"{path} does not fit the next phase: {', '.join(shapes[:8]) or 'nothing in common'}")
    torch.nn.Module.load_state_dict(model, shared, strict=False)
    new = [n for n in model.state_dict() if n not in shared]
    logging.info(f"Initialised {len(shared)} tensors from {path}; new in this phase: {len(new)} {new[:4]}")
    dropped = [n for n in state if n not in own]
    if dropped:
        logging.info(f"Not used by this phase: {len(dropped)} tensors {dropped[:4]}")


def load_model(directory, device="cpu", file="model.pth"):
    """The trained model of an experiment directory, strict and `weights_only`: (model in eval mode, args)."""
    import argparse

    path = os.path.join(directory, "config.yaml")
    if not os.path.exists(os.path.join(directory, file)):
        raise UserError(f"{os.path.join(directory, file)} does not exist; run stage 11 (stage 7: the encoder)")
    remedy = f"remove {directory} and run stage 11 (stage 7: the encoder)"
    with reading(path, remedy), open(path, encoding="utf-8") as f:
        args = argparse.Namespace(**yaml.safe_load(f))
    args.init_from, args.autocast = None, "none"
    model = SpeechLLMTask.build_model(args)
    model.load_state_dict(load_weights(os.path.join(directory, file), "cpu", "and run stage 11 (stage 7: the encoder)"))
    return model.to(device).eval(), args
