"""Train a small Llama-style LM on plain text and noisy copies, as a Hugging Face directory."""

import dataclasses
import json
import logging
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from espnet_llmvq.base.config import from_mapping, read_yaml
from espnet_llmvq.base.environment import versions
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import beside, share
from espnet_llmvq.base.made import Made
from espnet_llmvq.base.precision import fast_bfloat16
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.llm.noisy_copy import Noise, NoisyCopy, copy_start, note_size
from espnet_llmvq.llm.tokenizer import SP_MODEL, check_free, read_lines

log = logging.getLogger(__name__)

WINDOW = 50  # batches' worth of examples sorted together by length
# Keys of `Config` that transformers has under the same names.
OF_TRAINER = ("learning_rate", "warmup_steps", "weight_decay", "adam_beta2", "max_grad_norm", "save_steps")
COMPLETE = "complete"  # marks a checkpoint directory that was written to its end
LOG_FILE = "train.log"


@dataclasses.dataclass(frozen=True)
class Model:
    """Shape of the language model, under the names of `transformers.LlamaConfig`."""

    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 2
    intermediate_size: int = 512
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything in `lm.yaml`."""

    model: Model = dataclasses.field(default_factory=Model)
    noise: Noise = dataclasses.field(default_factory=Noise)
    copy_share: float = 0.5  # of examples that are noisy copies; the rest is plain text
    random_share: float = 0.2  # of noisy copies that copy random pieces
    copy_start: bool = True  # start from weights that copy
    epochs: int = 2
    batch_size: int = 16  # lines
    max_tokens: int = 256  # longer lines are left out
    learning_rate: float = 2.0e-3
    warmup_steps: int = 100
    schedule: str = "cosine"  # or linear; both decay to 0
    weight_decay: float = 0.01
    adam_beta2: float = 0.98
    max_grad_norm: float = 1.0
    precision: str = "auto"  # bfloat16 where the hardware is faster in it, else float32
    save_steps: int = 500
    log_steps: int = 50

    def __post_init__(self):
        check_name("schedule", self.schedule, ("linear", "cosine"))
        check_name("precision", self.precision, ("auto", "bfloat16", "float32"))
        for key in ("copy_share", "random_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"{key} is {getattr(self, key)}; it must lie in 0..1")
        heads = self.model.num_attention_heads
        if self.copy_start and min(self.model.num_hidden_layers, heads) < 2:
            raise UserError("copy_start needs model.num_hidden_layers and model.num_attention_heads of 2 or more")
        if self.copy_start and note_size(self.model.hidden_size, heads) < 2:
            raise UserError("copy_start needs a model.hidden_size of 4 * model.num_attention_heads ** 2 or more")
        for key in ("epochs", "batch_size", "max_tokens", "save_steps", "log_steps"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        if self.model.hidden_size % (2 * heads):
            raise UserError("model.hidden_size must be a multiple of 2 * model.num_attention_heads")


def load_config(path):
    """The `Config` of a YAML file. Raises UserError for an unknown key or a wrong value."""
    return from_mapping(Config, read_yaml(path), f"config {path}")


class Batches:
    """All batches of a training run: item `b` is batch `b % per_epoch` of epoch `b // per_epoch`.

    What an example is and how it is disturbed depends on (seed, epoch, line) alone, so a
    resumed run sees the same batches. Items are dicts of LongTensors `input_ids` and `labels`
    (batch, length), padded on the right; under causal attention padding needs no mask.
    """

    def __init__(self, lines, copier, config, seed):
        """`lines`: token ids of each line; `copier`: NoisyCopy."""
        self.lines, self.copier, self.config, self.seed = lines, copier, config, seed
        self.per_epoch = math.ceil(len(lines) / config.batch_size)
        self.epoch, self.batches = None, []

    def __len__(self):
        return self.config.epochs * self.per_epoch

    def example(self, epoch, index):
        """(ids, n): token ids of which the last n bear loss."""
        rng = np.random.default_rng((self.seed, epoch, index))
        tokens = self.lines[index]
        if rng.random() < self.config.copy_share:
            if rng.random() < self.config.random_share:
                tokens = self.copier.random_tokens(len(tokens), rng)
            return self.copier.example(tokens, rng, self.config.model.max_position_embeddings)
        return self.copier.plain(tokens)

    def start_epoch(self, epoch):
        """Make the examples of an epoch and group them by length within windows."""
        rng = np.random.default_rng((self.seed, epoch))
        order = [self.example(epoch, int(i)) for i in rng.permutation(len(self.lines))]
        size = self.config.batch_size
        for at in range(0, len(order), WINDOW * size):
            window = order[at : at + WINDOW * size]
            order[at : at + WINDOW * size] = sorted(window, key=lambda e: len(e[0]))
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        self.batches = [batches[i] for i in rng.permutation(len(batches))]
        self.epoch = epoch

    def __getitem__(self, b):
        if b >= len(self):
            raise IndexError(b)
        epoch, b = divmod(b, self.per_epoch)
        if epoch != self.epoch:
            self.start_epoch(epoch)
        return pad(self.batches[b], self.copier.eos)


def pad(examples, filler):
    """Examples (ids, n) as right-padded LongTensors {input_ids, labels}, both (batch, length)."""
    import torch

    length = max(len(ids) for ids, _ in examples)
    inputs = torch.full((len(examples), length), filler)
    labels = torch.full((len(examples), length), -100)
    for row, (ids, n) in enumerate(examples):
        inputs[row, : len(ids)] = torch.tensor(ids)
        labels[row, len(ids) - n : len(ids)] = torch.tensor(ids[-n:])
    return {"input_ids": inputs, "labels": labels}


def last_checkpoint(work):
    """The newest complete checkpoint in `work`, or None. Half-written ones are deleted."""
    found = []
    for path in Path(work).glob("checkpoint-*"):
        if (path / COMPLETE).exists():
            found.append(path)
        else:
            log.warning("%s is half-written: deleted", path)
            shutil.rmtree(path)
    return max(map(str, found), key=lambda path: int(path.rpartition("-")[2]), default=None)


def train(config, train_files, tokenizer_dir, out_dir, template, seed=1, ngpu=0, callbacks=()):
    """Train a language model on plain texts, one sentence a line; continue a run that was stopped. Whether it trained.

    Args:
        out_dir: appears when the training is done, with model, tokenizer and log. Checkpoints are in `out_dir`.work
            until then.
        template: prompt of the copy task, "USER: {speech} ASSISTANT: {text}".
        ngpu: 0 for the CPU; else a GPU where there is one, never several.
        callbacks: more `transformers.TrainerCallback`s.
    Raises UserError when what is there, or the checkpoints, are of other settings, text or another tokenizer.
    """
    if not os.path.isdir(tokenizer_dir):
        raise UserError(f"tokenizer directory {tokenizer_dir} does not exist; run stage 5")
    inputs = {f"text {i}": path for i, path in enumerate(train_files, 1)}
    inputs["tokenizer"] = os.path.join(tokenizer_dir, "tokenizer.json")
    work = f"{out_dir.rstrip('/')}.work"
    options = {"config": dataclasses.asdict(config), "prompt": template, "seed": seed}
    options["tools"] = versions("torch", "transformers")
    made, begun = Made(out_dir, inputs, **options), Made(work, inputs, **options)
    if made.done("delete {out} to train again, or give the former settings"):
        return False
    check_free(out_dir)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is to be fetched or reported
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    tokenizer = load_tokenizer(tokenizer_dir)
    copier = NoisyCopy(tokenizer, template, config.noise)
    text = read_lines(train_files)
    lines = [ids for ids in copier.encode(text) if len(ids) <= config.max_tokens]
    if not lines:
        raise UserError(f"no line of {', '.join(train_files)} has max_tokens {config.max_tokens} or less")
    longest = 2 * config.max_tokens + len(copier.head) + len(copier.middle) + 1
    if longest > config.model.max_position_embeddings:
        raise UserError(f"model.max_position_embeddings must be {longest} or more, or max_tokens smaller")

    os.makedirs(work, exist_ok=True)
    begun.done("delete {out} to start again, or give the former settings to finish it")
    begun.begin()
    gpu = bool(ngpu) and torch.cuda.is_available()
    bf16 = config.precision == "bfloat16" or (config.precision == "auto" and fast_bfloat16(gpu))

    set_seed(seed)
    bos, eos, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos if padding is None else padding}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **ids, **dataclasses.asdict(config.model)))
    if config.copy_start:
        copy_start(model)
    batches = Batches(lines, copier, config, seed)
    args = TrainingArguments(
        output_dir=work,
        max_steps=len(batches),
        per_device_train_batch_size=1,  # an item of the data is a batch
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        lr_scheduler_type=config.schedule,
        bf16=bf16,
        use_cpu=not gpu,
        save_strategy="steps",
        save_total_limit=2,  # with one, a kill while saving could leave none
        logging_steps=config.log_steps,
        **{name: getattr(config, name) for name in OF_TRAINER},
        report_to="none",
        dataloader_pin_memory=gpu,
        seed=seed,
    )
    args._n_gpu = min(args.n_gpu, 1)  # the model is too small to be worth several
    log.info(
        "%d lines (%d too long), %d steps, %.2f M parameters, %s, %d threads",
        len(lines), len(text) - len(lines), len(batches), model.num_parameters() / 1e6,
        "bfloat16" if bf16 else "float32", torch.get_num_threads(),
    )  # fmt: skip
    callbacks = [_run_log(work), *callbacks]
    trainer = Trainer(model, args, lambda items: items[0], train_dataset=batches, callbacks=callbacks)
    resume = last_checkpoint(work)
    if resume:
        log.info("resuming from %s", resume)
    trainer.train(resume_from_checkpoint=resume)

    tmp = beside(out_dir, "new")
    shutil.rmtree(tmp, ignore_errors=True)
    trainer.model.config.use_cache = True
    trainer.model.save_pretrained(tmp)
    tokenizer.save_pretrained(tmp)
    if os.path.exists(os.path.join(tokenizer_dir, SP_MODEL)):
        shutil.copy(os.path.join(tokenizer_dir, SP_MODEL), tmp)
    shutil.copy(os.path.join(work, LOG_FILE), tmp)
    share(tmp)
    made.note(["config.json", "model.safetensors", "tokenizer.json"], at=tmp, bfloat16=bf16)
    os.replace(tmp, out_dir)
    shutil.rmtree(work)
    return True


def _run_log(work):
    """The callback that writes the log file and marks complete checkpoints."""
    import time

    from transformers import TrainerCallback

    class RunLog(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.begin = time.monotonic()

        def on_log(self, args, state, control, logs=None, **kwargs):
            row = {"step": state.global_step, "of": state.max_steps, **(logs or {})}
            row["elapsed_s"] = round(time.monotonic() - self.begin, 1)
            with open(os.path.join(work, LOG_FILE), "a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")

        def on_save(self, args, state, control, **kwargs):
            Path(work, f"checkpoint-{state.global_step}", COMPLETE).touch()

    return RunLog()


def log_to_stderr():
    """Show what `train` reports."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
