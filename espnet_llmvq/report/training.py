"""Losses by epoch, from the logs of ESPnet's trainer."""

import re

_EPOCH = re.compile(r"(\d+)epoch results: (.*)")
_SECTION = re.compile(r"\[(train|valid)\]([^\[]*)")
# Not part of a longer name such as ctc_loss.
_LOSS = re.compile(r"(?<!\w)loss=([^,\s]+)")


def parse_train_log(path):
    """{"train": {epoch: loss}, "valid": {epoch: loss}} of an ESPnet training log.

    A resumed training logs an epoch again; the last one counts.
    """
    losses = {"train": {}, "valid": {}}
    with open(path, encoding="utf-8", errors="replace") as log:
        for line in log:
            match = _EPOCH.search(line)
            for split, values in _SECTION.findall(match[2]) if match else ():
                loss = _LOSS.search(values)
                if loss:
                    losses[split][int(match[1])] = float(loss[1])
    return losses


def read_training(exp_dir):
    """{phase: losses} of the EXP_DIR/*/train.log that hold a finished epoch, by name."""
    phases = {log.parent.name: parse_train_log(log) for log in sorted(exp_dir.glob("*/train.log"))}
    return {name: losses for name, losses in phases.items() if any(losses.values())}
