"""`SpeechLLMTask`: ESPnet's AbsTask for models whose encoder, bridge and causal LM are chosen by config."""

import contextlib
import sys
from unittest import mock

from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool, str_or_none

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.espnet import batches, compiled, fsdp, rates
from espnet_llmvq.espnet.data import SequencePreprocessor
from espnet_llmvq.espnet.trainer import SpeechLLMTrainer
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.model.batch import Augmenter, collate
from espnet_llmvq.model.build import CHOICES, DEFAULTS, build, check_config, signature_keys, with_encoder
from espnet_llmvq.model.positions import LEAST_RATE
from espnet_llmvq.speech.frame_rate import FrameRate
from espnet_llmvq.speech.pretrained import frames_are_trained

with contextlib.redirect_stdout(None):  # as in speech/encoder.py
    from espnet2.tasks.abs_task import AbsTask, optim_classes, scheduler_classes

# What training writes for decoding: the template of the validation sequences, and how many tokens a text may have.
WRITTEN = {"prompt": None, "tokens_per_second": LEAST_RATE}
# What a training reads beside the keys of a model: the encoder frames of training and validation set (scp), the
# noise of training, whether processes share one model among them, factors of the learning rate, and what is compiled.
OF_TRAINING = {
    **WRITTEN, "train_cache": None, "valid_cache": None, "augment_conf": {}, "fsdp": False, "lr_scale": {},
    "compile_llm": "none",
}  # fmt: skip


class SpeechLLMTask(AbsTask):
    num_optimizers = 1
    trainer = SpeechLLMTrainer
    class_choices_list = list(CHOICES)

    @classmethod
    def add_task_arguments(cls, parser):
        parser.set_defaults(required=["output_dir"])
        group = parser.add_argument_group(description="Speech LLM, see docs/config.md")
        for choices in cls.class_choices_list:
            choices.add_arguments(group)
        known = {action.dest for action in parser._actions}
        for name, default in {**DEFAULTS, **OF_TRAINING}.items():
            if name in known:
                continue
            if isinstance(default, dict):
                group.add_argument(f"--{name}", action=NestedDictAction, default={})
            elif isinstance(default, list):
                group.add_argument(f"--{name}", nargs="*", default=[])
            else:
                kind = {type(None): str_or_none, bool: str2bool}.get(type(default), type(default))
                group.add_argument(f"--{name}", type=kind, default=default)

    @classmethod
    def get_default_config(cls):
        """Every key with its default (dict). ESPnet's own would read the command line of whoever asks, too."""
        with mock.patch.object(sys, "argv", sys.argv[:1]):
            return super().get_default_config()

    @classmethod
    def check_config(cls, config, where="config"):
        """Raise UserError, with the nearest valid name, for a key that neither the model nor its training reads."""
        others = dict.fromkeys({a.dest for a in cls.get_parser()._actions} - set(WRITTEN))
        others["augment_conf"] = signature_keys(Augmenter)
        for key, classes in (("optim", optim_classes), ("scheduler", scheduler_classes)):
            if config.get(key) is not None:
                check_name(key, config[key], classes)
                others[f"{key}_conf"] = signature_keys(classes[config[key]]) - {"params", "optimizer"}
        check_config(config, where, others)
        compiled.wanted(config, where)
        fsdp.check_keys(config, where)
        rates.check_scale(config, where)
        if config.get("train_dtype", "float32") != "float32":
            raise UserError(
                f"{where}: train_dtype is {config['train_dtype']!r}; leave it out: autocast and llm_conf.dtype are for "
                "lower precision"
            )

    @classmethod
    def build_collate_fn(cls, args, train):
        return collate

    @classmethod
    def build_preprocess_fn(cls, args, train):
        config = with_encoder(vars(args))
        cache = args.train_cache if train else args.valid_cache
        augment = Augmenter(**args.augment_conf) if train and args.augment_conf else None
        if cache and frames_are_trained(config, args.encoder_file):
            raise UserError(
                "cached frames are those of the encoder before training, and train_encoder or layer: weighted changes "
                "them; train without a cache"
            )
        if cache and augment:
            raise UserError("augment_conf has no effect on cached encoder frames; remove one of the two")
        return SequencePreprocessor(load_tokenizer(args.llm), cache, augment, FrameRate(config).step)

    @classmethod
    def required_data_names(cls, train=True, inference=False):
        return ("sequence",)

    @classmethod
    def optional_data_names(cls, train=True, inference=False):
        return ()

    @classmethod
    def build_sequence_iter_factory(cls, args, iter_options, mode):
        if batches.are_ours(iter_options.batch_type, iter_options.shape_files):
            return batches.iter_factory(cls, args, iter_options, mode)
        return super().build_sequence_iter_factory(args=args, iter_options=iter_options, mode=mode)

    @classmethod
    def build_model(cls, args):
        """The model of `build`; `args` get what shapes its encoder, so that ESPnet's config.yaml is complete."""
        vars(args).update(with_encoder(vars(args)))
        if not args.fsdp:
            choice = compiled.wanted(vars(args))
            model = build(vars(args))
            if choice != "none" and model.llm is not None:
                compiled.compile_layers(model.llm, choice, "cuda" if args.ngpu else "cpu")
            return model
        fsdp.check_keys(vars(args))
        fsdp.check_processes(args.dist_backend, args.ngpu)
        return fsdp.shard(build(vars(args)), args.ngpu)

    @classmethod
    def build_optimizers(cls, args, model):
        if args.lr_scale:
            rates.check_scale(vars(args))
            groups, args.scheduler_conf = rates.scaled(args, model)
            optimizers = [optim_classes[args.optim](groups, **args.optim_conf)]
        else:
            optimizers = super().build_optimizers(args, model)
        for optimizer in optimizers:
            optimizer.register_step_post_hook(model.forget_drift)
        return optimizers
