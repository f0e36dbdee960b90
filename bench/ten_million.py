"""Steps that read or write data, by the number of utterances: seconds and peak memory of a process of their own.

The data are those of `llmvq data synth-manifest`. MiB is ru_maxrss of the process, libraries included. `bytes a line`
is by how much the peak behind the loading of libraries grows from the smallest size to the largest (it is VmHWM, set
back at the beginning of the step: importing torch takes more for a moment than what follows in a small trial), and
`MiB at 1e7` what follows for ten million utterances.

`python bench/ten_million.py --sizes 100000 1000000 10000000 --dir ROOM --json FILE`. ROOM needs 3 kB of disk an
utterance. By default 10,000 and 100,000: some two minutes on an idle core.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from espnet_llmvq.base.files import write_text

MANY = 10_000_000
LIMIT_MIB = 2048
STEPS_OF_LOADER, WORLD, RANK = 200, 4, 1
ENCODER = {
    "frontend": "default", "frontend_conf": {"fs": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160},
    "encoder": "conformer", "encoder_conf": {"input_layer": "conv2d"},
}  # fmt: skip
PROMPT = "USER: {speech} ASSISTANT: {text}"


def remove(room, pattern):
    """Remove results of a run before, which would be up to date."""
    for path in room.glob(pattern):
        path.unlink()


def manifest(room, n):
    from espnet_llmvq.sequence.synth_manifest import synth_manifest

    shutil.rmtree(room / "data", ignore_errors=True)
    synth_manifest(str(room / "data"), n, word_times=True)


def validate(room, n):
    from espnet_llmvq.data.checks import validate

    problems = validate(room / "data", rate=16000)
    assert not problems, problems[0]


def sequences(room, n):
    from espnet_llmvq.sequence.asr import asr_sequence
    from espnet_llmvq.sequence.corpus import utterances
    from espnet_llmvq.sequence.sequence import write_sequences

    rows = utterances(room / "data", {})
    assert write_sequences(room / "sequences.jsonl", (asr_sequence(*row, PROMPT) for row in rows)) == n


def index(room, n):
    from espnet_llmvq.sequence.sequence import SequenceReader, build_index

    build_index(room / "sequences.jsonl")
    assert len(SequenceReader(room / "sequences.jsonl")) == n


def word_times(room, n):
    from espnet_llmvq.align.ctm import open_ctm
    from espnet_llmvq.sequence.word_times import import_word_times

    import_word_times(str(room / "data"), open_ctm(room / "data/words.ctm"), str(room / "words.ctm"))


def interleaved(room, n):
    from espnet_llmvq.align.ctm import open_ctm
    from espnet_llmvq.sequence.interleaved import Interleaving
    from espnet_llmvq.sequence.sequence import write_sequences
    from espnet_llmvq.stages.sequences import Units, interleaved, print_units

    units, out = Units(), room / "interleaved.jsonl"
    how = Interleaving(level="word", segment_token=None)
    write_sequences(out, interleaved(room / "data", open_ctm(room / "data/words.ctm"), how, 640, {}, units))
    print_units(out, units)


def mixture(room, n):
    """As many lines as utterances: half of them drawn from each of two sources."""
    from espnet_llmvq.sequence.mixture import Source
    from espnet_llmvq.sequence.shape import Shape
    from espnet_llmvq.stages.sequences import write_mixture

    file, shape = str(room / "sequences.jsonl"), str(room / "data/sequences_shape")
    sources = [Source(name, 1, file, shape) for name in ("one", "other")]
    total = int(Shape(shape).lengths.sum())
    remove(room, "mixture*")
    write_mixture(str(room / "mixture.jsonl"), str(room / "mixture_shape"), sources, total)


def share(room, n):
    from espnet_llmvq.stages.sequences import write_share

    remove(room, "share*")
    write_share(str(room / "share_shape"), str(room / "data/sequences_shape"), 0.5, 1)


def libraries(room, n):
    import espnet2.train.dataset  # noqa: F401
    import transformers  # noqa: F401

    import espnet_llmvq.espnet.data  # noqa: F401


def sampler(room, n):
    from espnet_llmvq.espnet.batches import PositionsSampler

    batches = list(PositionsSampler(room / "mixture_shape", 1000, WORLD, "descending", "descending"))
    assert all(map(len, batches))


def loader(room, n):
    """200 steps from a random middle of the mixture, as one of four processes reads them, each packed; then again."""
    import torch

    from espnet_llmvq.espnet.batches import iter_factory
    from espnet_llmvq.llm.packing import assign
    from espnet_llmvq.model.batch import collate

    args = SimpleNamespace(
        fold_length=[], sort_in_batch="descending", sort_batch="descending", drop_last_iter=False, min_batch_size=1,
        seed=1, shuffle_within_batch=False, num_workers=0, ngpu=0,
    )  # fmt: skip
    options = SimpleNamespace(
        distributed=True, batch_type="numel", shape_files=[str(room / "mixture_shape")], batch_size=1, batch_bins=1000,
        num_batches=None, num_iters_per_epoch=STEPS_OF_LOADER, train=True, collate_fn=collate,
    )  # fmt: skip
    dataset = dataset_of(room)
    with mock.patch.multiple(torch.distributed, get_world_size=lambda: WORLD, get_rank=lambda: RANK):
        factory = iter_factory(SimpleNamespace(build_dataset=lambda *_: dataset), args, options, "train")
    epoch = random.Random(n).randint(1, max(1, n // 30 // STEPS_OF_LOADER))
    seen = []
    for ids, batch in factory.build_iter(epoch):
        assert assign([len(tokens) for tokens in batch["tokens"]], 1000)
        seen.append(ids)
    assert len(seen) == STEPS_OF_LOADER
    again = [ids for ids, _ in itertools.islice(factory.build_iter(epoch), 3)]
    assert again == seen[:3], "a resumed training reads other batches"


def filter(room, n):
    from espnet_llmvq.data.filter import filter_data

    shutil.rmtree(room / "filtered", ignore_errors=True)
    filter_data(str(room / "data"), str(room / "filtered"), min_duration=1.5)


def positions(room, n):
    from espnet_llmvq.stages.sequences import count_positions

    remove(room, "positions_shape*")
    pairs = [(str(room / "sequences.jsonl"), str(room / "positions_shape"))]
    count_positions(pairs, str(room / "tokenizer"), ENCODER, 8)


def dataset_of(room):
    """ESPnet's dataset of the mixture, with the tokenizer of `tokenizer`."""
    from espnet2.train.dataset import ESPnetDataset

    from espnet_llmvq.espnet.data import SequencePreprocessor
    from espnet_llmvq.llm.directory import load_tokenizer

    made = SequencePreprocessor(load_tokenizer(str(room / "tokenizer")), step=640)
    return ESPnetDataset([(str(room / "mixture.jsonl"), "sequence", "sequence")], preprocess=made)


def tokenizer(room, n):
    from espnet_llmvq.llm.tokenizer import train_tokenizer
    from espnet_llmvq.sequence.synth_manifest import texts

    write_text(room / "lm.txt", "".join(f"{text}\n" for text, _ in texts(2000, 0)))
    train_tokenizer([str(room / "lm.txt")], 300, str(room / "tokenizer"))


STEPS = {
    step.__name__: step
    for step in (
        manifest, validate, filter, sequences, index, word_times, interleaved, mixture, share, tokenizer, libraries,
        positions, sampler, loader,
    )
}  # fmt: skip


def status(name):
    """A value of /proc/self/status in MiB: VmRSS, memory now, or VmHWM, the most since it was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def case(step, room, n):
    """Run a step: {base_mib, own_mib}, memory before it and what it took beyond that."""
    if step in ("positions", "sampler", "loader"):
        libraries(room, n)
    base = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    STEPS[step](room, n)
    return {"base_mib": round(base, 1), "own_mib": round(status("VmHWM") - base, 2)}


def measured(step, room, n):
    """Run a step in a process of its own: {seconds, cpu_seconds, peak_mib, base_mib, own_mib}.

    Raises RuntimeError if it fails.
    """
    command = [sys.executable, os.path.abspath(__file__), "--case", step, "--sizes", str(n), "--dir", str(room)]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log)
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        for file in (out, log):
            file.seek(0)
        if code:
            raise RuntimeError(f"{step} with {n} utterances failed:\n{log.read()[-2000:]}")
        told = json.loads(out.read().splitlines()[-1])
    cpu = used.ru_utime + used.ru_stime
    return {
        "seconds": round(time.perf_counter() - started, 2), "cpu_seconds": round(cpu, 2),
        "peak_mib": round(used.ru_maxrss / 1024, 1), **told,
    }  # fmt: skip


def growth(rows):
    """(bytes a line, MiB at MANY) by the smallest and the largest size. rows: {size: what `measured` gave}."""
    small, large = min(rows), max(rows)
    if small == large:
        return None, None
    most = rows[large]
    a_line = (most["own_mib"] - rows[small]["own_mib"]) * 2**20 / (large - small)
    at_many = most["base_mib"] + most["own_mib"] + a_line * (MANY - large) / 2**20
    return round(a_line, 1), round(max(at_many, most["peak_mib"]))


def table(result):
    """Lines of the table, Markdown."""
    sizes = sorted({n for rows in result.values() for n in rows})
    head = ["step", *(f"{n:,}: s, CPU s, MiB" for n in sizes), "bytes a line", "MiB at 1e7"]
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for step, rows in result.items():
        cells = ["{seconds}, {cpu_seconds}, {peak_mib}".format(**rows[n]) for n in sizes]
        a_line, at_many = growth(rows)
        mark = " (over 2 GiB)" if at_many and at_many > LIMIT_MIB else ""
        yield "| " + " | ".join([step, *cells, str(a_line), f"{at_many}{mark}"]) + " |"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the measurements to FILE")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="numbers of utterances")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="only these, in their order")
    parser.add_argument("--dir", help="where data are written and stay; by default a directory that is removed")
    parser.add_argument("--case", choices=STEPS, help="one step in this process")
    args = parser.parse_args(argv)
    if args.case:
        with contextlib.redirect_stdout(io.StringIO()):
            told = case(args.case, Path(args.dir), args.sizes[0])
        print(json.dumps(told))
        return
    result = {step: {} for step in STEPS if step in args.steps}
    with tempfile.TemporaryDirectory() as temporary:
        for n in args.sizes:
            room = Path(args.dir or temporary) / f"{n}"
            room.mkdir(parents=True, exist_ok=True)
            for step in result:
                result[step][n] = measured(step, room, n)
                print(f"{n:>9} {step:>12}: {result[step][n]}", flush=True)
    print("\n".join(table(result)))
    if args.json:
        facts = {step: dict(zip(("bytes_a_line", "mib_at_1e7"), growth(rows))) for step, rows in result.items()}
        write_text(args.json, json.dumps({"steps": result, "growth": facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
