"""ESPnet's trainer with checkpoints that survive a kill, and a look at the bridge after each epoch.

Checkpoints are written atomically and read without pickles.
"""

import contextlib
import dataclasses
import datetime
import itertools
import logging
import math
import os
import random
from pathlib import Path

import numpy as np
import torch
from espnet2.train.reporter import aggregate, to_reported_value

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import beside
from espnet_llmvq.bridge.collapse import MARK, write_diagnostics
from espnet_llmvq.espnet import fsdp
from espnet_llmvq.model.checkpoint import load_weights
from espnet_llmvq.model.losses import COUNT

with contextlib.redirect_stdout(None):  # as in speech/encoder.py
    from espnet2.train.trainer import Trainer

RANDOM_STATE = "random_state"
MOST_SKIPPED = 0.1  # of an epoch's steps; where more have no finite gradient, what comes of it is no training


def random_state():
    """States of all generators, as tensors and plain Python values only."""
    name, keys, pos, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), pos, has_gauss, cached),
        "python": (version, list(internal), gauss),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state):
    torch.set_rng_state(state["torch"].cpu())
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def plain(value):
    """Replace NumPy scalars and durations by Python numbers, so that `weights_only` loading takes the checkpoint."""
    if isinstance(value, dict):
        return type(value)((k, plain(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    if isinstance(value, datetime.timedelta):  # how long an epoch took, for its log line only
        return value.total_seconds()
    return value.item() if isinstance(value, np.generic) else value


@contextlib.contextmanager
def atomic_checkpoints():
    """Make `torch.save` write to a temporary name and rename, and add the random state to checkpoints.

    ESPnet's trainer has no hook where it saves; a kill in the middle of `torch.save` would leave a file that
    the next run cannot read.
    """
    save = torch.save

    def save_atomically(obj, path, *args, **kwargs):
        if isinstance(obj, dict) and "optimizers" in obj:
            obj = {**plain(obj), RANDOM_STATE: random_state()}
        tmp = str(beside(path, "tmp"))
        try:
            save(obj, tmp, *args, **kwargs)
        except (OSError, RuntimeError) as err:
            os.remove(tmp)
            raise UserError(
                f"{path}: cannot be written ({err}); free some disk space and run again: training goes on from its "
                "last checkpoint"
            ) from err
        os.replace(tmp, path)

    torch.save = save_atomically
    try:
        yield
    finally:
        torch.save = save


@contextlib.contextmanager
def own_counts(reporter, model):
    """Make the `SubReporter` of an epoch weigh each of several losses by its own count, not all by one weight.

    The total of the epoch then is the weighted sum of these means; of one loss everything stays as it is.
    """
    register = reporter.register

    def register_each(stats, weight=None):
        stats = dict(stats)
        for key in [key for key in stats if key.startswith(COUNT)]:
            name = f"loss_{key[len(COUNT) :]}"
            register({name: stats.pop(name)}, stats.pop(key))
        register(stats, weight)

    reporter.register = register_each
    try:
        yield
    finally:
        del reporter.register
    weights = getattr(model, "module", model).loss_weights
    names = [name for name in weights if f"loss_{name}" in reporter.stats]
    if len(names) > 1:
        total = sum(weights[name] * aggregate(reporter.stats[f"loss_{name}"]) for name in names)
        reporter.stats["loss"] = [to_reported_value(total, 1)] * reporter.count


class Watched:
    """The batches of an iterator. seen: utterances of each one that was taken; now: those of the one at work."""

    def __init__(self, batches):
        self.batches, self.seen, self.now = batches, [], []

    def __iter__(self):
        for ids, batch in self.batches:
            self.now = list(ids)
            self.seen.append(self.now)
            yield ids, batch
            self.now = []


def some(ids):
    return ", ".join(ids[:10]) + f" and {len(ids) - 10} more" * (len(ids) > 10)


def check_skipped(reporter, seen, most=MOST_SKIPPED):
    """Say how many steps of an epoch ESPnet skipped, having no finite gradient, and of which utterances.

    reporter: its `SubReporter`; seen: utterances of each batch. Raises UserError for more than the share `most`.
    """

    def given(key):
        return [math.isfinite(row.value) for row in reporter.stats.get(key, ())] or [False] * reporter.count

    # ESPnet notes a time for each step, a norm for those that it makes.
    steps, norms = [i for i, made in enumerate(given("train_time")) if made], given("grad_norm")
    skipped = [i for i in steps if not norms[i]]
    if not skipped:
        return
    starts = dict(zip(steps, [0, *(i + 1 for i in steps)]))
    utts = sorted({utt for i in skipped for ids in seen[starts[i] : i + 1] for utt in ids})
    message = (
        f"{len(skipped)} of {len(steps)} steps of epoch {reporter.get_epoch()} had no finite gradient and were skipped,"
        f" with the utterances {some(utts)}"
    )
    logging.warning(message)
    reporter.stats["skipped_percent"] = [
        to_reported_value(100.0 * (i in skipped) if i in starts else math.nan) for i in range(reporter.count)
    ]
    remedy = "lower the learning rate (optim_conf.lr), or compute in float32 (llm_conf.dtype, autocast)"
    if len(skipped) == len(steps):
        raise UserError(f"no step of this epoch had a finite gradient, so nothing was trained; {remedy}")
    if len(skipped) > most * len(steps):
        raise UserError(f"{message}: more than {most:.0%}; look at their audio and texts, {remedy}")


class SpeechLLMTrainer(Trainer):
    """Differs from ESPnet's trainer in how checkpoints are written and read, losses averaged and the last batches of an
    epoch taken; warns of collapses."""

    @classmethod
    def run(cls, model, optimizers, **kwargs):
        with atomic_checkpoints(), fsdp.running(model, optimizers):
            super().run(model=model, optimizers=optimizers, **kwargs)

    @classmethod
    def train_one_epoch(cls, model, *args, iterator, reporter, options, **kwargs):
        """With `accum_grad`, batches at the end that do not fill a step make one, the mean of as many as there are.

        ESPnet would add their gradients to the first step of the next epoch, and no checkpoint has them.
        """
        rest = len(iterator) % options.accum_grad if options.accum_grad > 1 else 0
        interval = options.log_interval or max(len(iterator) // 20, 10)  # as ESPnet has it
        options = dataclasses.replace(options, log_interval=interval)
        watched, parts = Watched(iterator), [(len(iterator), options)]
        batches = iter(watched)
        if rest:
            parts = [(len(iterator) - rest, options), (rest, dataclasses.replace(options, accum_grad=rest))]
        with own_counts(reporter, model):
            for n, how in parts:
                part = itertools.islice(batches, n)
                try:
                    super().train_one_epoch(model, *args, iterator=part, reporter=reporter, options=how, **kwargs)
                except UserError as err:
                    raise UserError(f"{err} (in the batch of {some(watched.now)})") if watched.now else err from None
        # A scaler of gradients skips steps until it has found its scale.
        check_skipped(reporter, watched.seen, 1.0 if kwargs.get("scaler") else MOST_SKIPPED)
        return False

    @classmethod
    def validate_one_epoch(cls, model, iterator, reporter, options, distributed_option):
        """Also look at the means of the bridge's statistics: a warning, and `diagnostics.json`."""
        with own_counts(reporter, model):
            super().validate_one_epoch(model, iterator, reporter, options, distributed_option)
        if fsdp.is_sharded(model):
            model.shards.gather()
        if distributed_option.distributed and distributed_option.dist_rank != 0:
            return
        means = {name: float(aggregate(values)) for name, values in reporter.stats.items()}
        if "bridge_steps" not in means:  # a phase that does not run the bridge
            return
        bridge = getattr(model, "module", model).bridge
        warnings = bridge.collapse_warnings(means)
        for warning in warnings:
            logging.warning(f"{MARK}: {warning}")
        means = {name: value for name, value in means.items() if math.isfinite(value)}
        write_diagnostics(options.output_dir, reporter.get_epoch(), means, warnings)

    @staticmethod
    def resume(checkpoint, model, reporter, optimizers, schedulers, scaler, ngpu=0, strict=True):
        """Load `checkpoint.pth` (weights_only) with optimizers, schedulers and generators."""
        checkpoint = Path(checkpoint)
        # Of whole tensors each process reads its part.
        sharded = fsdp.is_sharded(model)
        device = f"cuda:{torch.cuda.current_device()}" if ngpu > 0 and not sharded else "cpu"
        states = load_weights(checkpoint, device, "to train this phase from its beginning", mmap=sharded)
        model.load_state_dict(states["model"])
        reporter.load_state_dict(states["reporter"])
        for optimizer, state in zip(optimizers, states["optimizers"]):
            optimizer.load_state_dict(state)
        for scheduler, state in zip(schedulers, states["schedulers"]):
            if scheduler is not None:
                scheduler.load_state_dict(state)
        if scaler is not None and states["scaler"] is not None:
            scaler.load_state_dict(states["scaler"])
        # Killed between the two files of an epoch: the averaging at the end needs the second.
        weights = checkpoint.parent / f"{reporter.get_epoch()}epoch.pth"
        if not weights.exists():
            torch.save(states["model"], weights)
        set_random_state(states[RANDOM_STATE])
        logging.info(f"The training was resumed using {checkpoint}")
