"""Run training phases: one or several processes, logs beside the models, nothing done twice."""

import multiprocessing
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass

from espnet_llmvq.base.errors import UserError, exit_with
from espnet_llmvq.base.files import beside
from espnet_llmvq.base.made import NAME
from espnet_llmvq.base.processes import end_with_parent, exit_reason
from espnet_llmvq.bridge.collapse import MARK
from espnet_llmvq.launch.call import tail

DONE = "model.pth"


@dataclass(frozen=True)
class Job:
    """A training to do: its tag, that of the phase before ("" for none), the config that ESPnet gets, and a function
    that gives its `Made` now, when all that it reads is there."""

    tag: str
    parent: str
    settings: dict
    made: object


def node_rank(distributed):
    """Number of this process among those that ESPnet's launcher started, 0 for the only one.

    distributed: options of ESPnet's trainer (dict) that the launcher gave.
    """
    if not distributed:
        return 0
    from espnet2.train.distributed_utils import get_node_rank

    return int(get_node_rank(distributed.get("dist_rank"), distributed.get("dist_launcher")) or 0)


def wait_for(path, seconds=1800):
    """Wait until another machine has written a file. Raises UserError after `seconds`."""
    end = time.time() + seconds
    while not os.path.exists(path):
        if time.time() > end:
            raise UserError(f"{path} did not appear within {seconds} s; see the log of the first machine beside it")
        time.sleep(1)


def epoch_batches(config, shape_file, gpus=1):
    """Batches of an epoch for a config with all keys. shape_file: LLM positions of sequences."""
    from espnet_llmvq.espnet.batches import batch_sampler

    sampler = batch_sampler(
        type=config["batch_type"], shape_files=[shape_file], fold_lengths=config["fold_length"],
        drop_last=config["drop_last_iter"], min_batch_size=gpus if gpus > 1 else config["min_batch_size"],
        **{key: config[key] for key in ("batch_size", "batch_bins", "sort_in_batch", "sort_batch")},
    )  # fmt: skip
    return len(sampler)


def train_phase(directory, settings, threads, distributed=None):
    """Train one phase in this process with ESPnet's trainer; resumes where it was killed.

    settings: a config of `SpeechLLMTask` (dict). `model.pth`, the average of the best epochs, appears last.
    distributed: see `node_rank`. The first process writes what all share, the others wait for it.
    """
    import torch
    import yaml

    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.positions import tokens_per_second
    from espnet_llmvq.sequence.prompt import template_of
    from espnet_llmvq.sequence.sequence import read_sequences

    torch.set_num_threads(threads)
    os.makedirs(directory, exist_ok=True)
    node, options = node_rank(distributed), dict(distributed or {})
    config = os.path.join(directory, f"phase.node{node}.yaml" if node else "phase.yaml")
    if options.get("dist_init_method", "").startswith("file://"):
        options["dist_init_method"] += f".{os.path.basename(directory)}"  # such a file serves one meeting
    # Of validation, which is plain transcription whatever the training sequences are.
    train, valid = (settings[f"{part}_data_path_and_name_and_type"][0][0] for part in ("train", "valid"))
    first = next(read_sequences(valid), None)
    written = {"prompt": template_of(first) if first else None}
    if (settings.get("model_conf") or {}).get("llm_weight", 1.0):
        written["tokens_per_second"] = tokens_per_second([train, valid], load_tokenizer(settings["llm"]))
    with open(config, "w", encoding="utf-8") as f:
        yaml.safe_dump({**settings, **written}, f, sort_keys=False, allow_unicode=True)
    cmd = ["--config", config, "--output_dir", directory, "--resume", "true"]
    SpeechLLMTask.main(cmd=cmd + [word for name, value in options.items() for word in (f"--{name}", value)])
    if node:
        os.remove(config)
        wait_for(os.path.join(directory, DONE))
        return
    tmp = beside(os.path.join(directory, DONE), "tmp")
    shutil.copyfile(average_of(directory, settings), tmp)
    os.replace(tmp, os.path.join(directory, DONE))


def average_of(directory, settings):
    """File of the average of the best epochs that `model.pth` is.

    Of several numbers of `keep_nbest_models` it is of the smallest: the largest says how many checkpoints are kept.
    """
    phase, metric, _ = settings["best_model_criterion"][0]
    kept = settings.get("keep_nbest_models")
    path = os.path.join(directory, f"{phase}.{metric}.ave")
    if isinstance(kept, list) and os.path.exists(f"{path}_{min(kept)}best.pth"):  # not where there are fewer epochs
        return f"{path}_{min(kept)}best.pth"
    return f"{path}.pth"


def log_file(directory, distributed):
    """The log of this process for a phase; see `node_rank`."""
    node = node_rank(distributed)
    return os.path.join(directory, f"train.node{node}.log" if node else "train.log")


def _stop_children(number, frame):
    """ESPnet starts a process a GPU; they would go on without this one."""
    for process in multiprocessing.active_children():
        process.terminate()
    os._exit(128 + number)


def _child(directory, settings, threads, distributed):
    """Entry of a forked process: everything it prints goes to the phase's log."""
    log = os.open(log_file(directory, distributed), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if settings.get("ngpu", 0) > 1:
        signal.signal(signal.SIGTERM, _stop_children)
    end_with_parent()
    try:
        train_phase(directory, settings, threads, distributed)
    except Exception as err:
        exit_with(err)


class LogFollower:
    """Turns new lines of ESPnet's log into short progress lines."""

    started = re.compile(r"(\d+)/(\d+)epoch started(?:\. Estimated time to finish: (.*))?$")
    collapse = re.compile(rf"WARNING: ({MARK}: .*)")
    results = re.compile(r"(\d+)epoch results: \[train\].*?\bloss=([^,]+),.*?\[valid\].*?\bloss=([^,]+),")

    def __init__(self, tag, path):
        self.tag, self.path = tag, path
        self.position = os.path.getsize(path) if os.path.exists(path) else 0

    def report(self):
        if not os.path.exists(self.path):
            return
        with open(self.path, encoding="utf-8", errors="replace") as f:
            f.seek(self.position)
            for line in f:
                if not line.endswith("\n"):
                    break
                self.position += len(line.encode("utf-8", "replace"))
                self.show(line.rstrip())

    def show(self, line):
        if match := self.started.search(line):
            epoch, total, left = match.groups()
            print(f"[{self.tag}] epoch {epoch}/{total}" + (f", {left} left" if left else ""), flush=True)
        elif match := self.collapse.search(line):
            print(f"[{self.tag}] warning: {match[1]}", flush=True)
        elif match := self.results.search(line):
            epoch, train, valid = match.groups()
            print(f"[{self.tag}] epoch {epoch}: train loss {train}, valid loss {valid}", flush=True)


def run_phases(jobs, nj, threads, distributed, remedy):
    """Train phases, at most `nj` at once, each after its parent.

    jobs: [`Job`], parents first. distributed: see `train_phase`. remedy: as `Made.done` takes it; a phase that was made
    of something else is an error before anything is trained, but for one that waits for its parent: of that the
    settings are compared at once, and what it reads when the parent is there. Processes are forked from this one after
    the heavy imports, which take longer than a short phase. Raises UserError, with the end of its log, for one that
    failed; what was running is stopped and resumes in the next run.
    """
    waiting = []
    for job in jobs:
        after = bool(job.parent) and any(other.tag == job.parent for other in waiting)
        if job.made().done(remedy, options_only=after) and not after:
            print(f"[{job.tag}] is trained, nothing to do: {job.made().out}/{DONE}")
        else:
            waiting.append(job)
    if not waiting:
        return
    print(f"loading libraries; to train: {len(waiting)}", flush=True)
    import espnet_llmvq.espnet.task  # noqa: F401  shared by all forked children

    fork, running = multiprocessing.get_context("fork"), {}
    open_tags, first = {job.tag for job in waiting}, node_rank(distributed) == 0
    try:
        while waiting or running:
            for job in list(waiting):
                if len(running) < nj and job.parent not in open_tags:
                    waiting.remove(job)
                    made = job.made()
                    directory = made.out
                    if not first:
                        # What another machine puts there before the record would look like a directory of someone else.
                        wait_for(os.path.join(directory, NAME))
                    if made.done(remedy):
                        print(f"[{job.tag}] is trained, nothing to do: {directory}/{DONE}")
                        open_tags.discard(job.tag)
                        continue
                    if first:
                        os.makedirs(directory, exist_ok=True)
                        made.begin()
                    log = log_file(directory, distributed)
                    follower = LogFollower(job.tag, log)
                    process = fork.Process(target=_child, args=(directory, job.settings, threads, distributed))
                    process.start()
                    running[job.tag] = (process, follower, log, made)
                    print(f"[{job.tag}] training, log in {log}", flush=True)
            time.sleep(0.3)
            for tag, (process, follower, log, made) in list(running.items()):
                over = process.exitcode is not None
                follower.report()  # after looking, so that its last lines are not missed
                if over:
                    del running[tag]
                    if process.exitcode != 0:
                        why = exit_reason(process.exitcode)
                        raise UserError(f"phase {tag} failed: it {why}; the end of {log}:\n{tail(log)}")
                    if first:
                        made.note(files=[DONE, "config.yaml"])
                    open_tags.discard(tag)
                    print(f"[{tag}] done", flush=True)
    finally:
        for process, *_ in running.values():
            process.terminate()
            process.join()
