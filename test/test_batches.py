"""Batches by LLM positions: the same as those of ESPnet's samplers and loader, with ids that stay in their file."""

import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.samplers.build_batch_sampler import build_batch_sampler

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.espnet import batches
from espnet_llmvq.espnet.batches import PositionsSampler
from espnet_llmvq.sequence.shape import Shape


def write_shape(path, n, seed=0, longest=60, shuffled=True):
    """A file of n ids and random positions."""
    rng = np.random.default_rng(seed)
    ids = [f"utt-é{i}" for i in (rng.permutation(n) if shuffled else range(n))]
    path.write_text("".join(f"{key} {rng.integers(1, longest)}\n" for key in ids))
    return str(path)


@pytest.mark.parametrize("n, bins, least", [(1, 100, 1), (7, 10_000, 3), (400, 300, 1), (400, 100, 9), (401, 25, 2)])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("in_batch, of_batches", itertools.product(["ascending", "descending"], repeat=2))
def test_batches_are_those_of_espnet(tmp_path, n, bins, least, drop_last, in_batch, of_batches):
    shape = write_shape(tmp_path / "shape", n, seed=n + bins)
    theirs = build_batch_sampler(
        type="numel", batch_size=1, batch_bins=bins, shape_files=[shape], min_batch_size=least, drop_last=drop_last,
        sort_in_batch=in_batch, sort_batch=of_batches,
    )  # fmt: skip
    ours = PositionsSampler(shape, bins, least, in_batch, of_batches, drop_last)
    assert [tuple(batch) for batch in ours] == list(theirs) and len(ours) == len(theirs)


def test_other_types_are_espnets(tmp_path):
    shape = write_shape(tmp_path / "shape", 20)
    options = dict(batch_size=3, batch_bins=100, shape_files=[shape])
    ours, theirs = batches.batch_sampler(type="sorted", **options), build_batch_sampler(type="sorted", **options)
    assert list(ours) == list(theirs) and type(ours) is type(theirs)


@pytest.mark.parametrize("per_epoch", [None, 7, 100])
@pytest.mark.parametrize("rank", [None, 0, 2])
def test_the_loader_gives_what_espnets_gives(tmp_path, monkeypatch, per_epoch, rank):
    """Epochs in any order, as resumed trainings begin with, of one process and of one of three."""
    import torch

    shape = write_shape(tmp_path / "shape", 300)
    args = SimpleNamespace(
        fold_length=[], sort_in_batch="descending", sort_batch="descending", drop_last_iter=False, min_batch_size=1,
        seed=5, shuffle_within_batch=False, num_workers=0, ngpu=0,
    )  # fmt: skip
    options = SimpleNamespace(
        distributed=rank is not None, batch_type="numel", shape_files=[shape], batch_size=1, batch_bins=200,
        num_batches=None, num_iters_per_epoch=per_epoch, train=True, collate_fn=list,
    )  # fmt: skip
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)

    class Named:
        def __getitem__(self, key):
            return key

    task = SimpleNamespace(build_dataset=lambda args, options: Named())
    ours = batches.iter_factory(task, args, options, "train")
    least = 1 if rank is None else 3
    theirs = list(
        build_batch_sampler(
            type="numel", batch_size=1, batch_bins=200, shape_files=[shape], min_batch_size=least,
            sort_batch="descending",
        )
    )  # fmt: skip
    if rank is not None:
        theirs = [batch[rank::3] for batch in theirs]
    theirs = SequenceIterFactory(Named(), theirs, seed=5, shuffle=True, num_iters_per_epoch=per_epoch, collate_fn=list)
    for epoch in (1, 4, 3):
        assert list(ours.build_iter(epoch)) == list(theirs.build_iter(epoch))


def test_a_batch_goes_to_other_processes_as_a_tuple(tmp_path):
    first = next(iter(PositionsSampler(write_shape(tmp_path / "shape", 9), 50)))
    assert pickle.loads(pickle.dumps(first)) == tuple(first)
    assert list(first[1::2]) == list(first)[1::2] and first[-1] == list(first)[-1]


def test_too_few_for_all_processes(tmp_path):
    (tmp_path / "shape").write_text("a 5\nb 6\n")
    ours = PositionsSampler(tmp_path / "shape", 1, least=3)
    assert [list(batch) for batch in ours] == [["b", "a"]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("a 5\nb\n", "shape:2: 'b' is not `id positions`"),
        ("a 5\nb 0\n", "shape:2: 'b 0' is not `id positions`"),
        ("a 5\n\nb 4\n", "shape:2: '' is not `id positions`"),
        ("a 5\nb 4,80\n", "shape:2: 'b 4,80' is not"),
        (f"a {1 << 32}\n", "shape:1: .* is not"),
        ("b 5\na 4\nc 1\nb 4\na 4\n", "shape:4: b is there twice; remove it and run stage 10 again"),
    ],
)
def test_a_damaged_file_of_positions_is_named(tmp_path, text, message):
    (tmp_path / "shape").write_text(text)
    with pytest.raises(UserError, match=message):
        Shape(tmp_path / "shape")


def test_columns_of_a_file(tmp_path):
    """Against the lines as Python reads them."""
    path = write_shape(tmp_path / "shape", 200)
    lines = [line.split() for line in (tmp_path / "shape").read_text().splitlines()]
    shape = Shape(path)
    assert [(shape.id(i), str(shape.lengths[i])) for i in range(len(shape))] == [tuple(line) for line in lines]
    assert [shape.id(i) for i in shape.by_id()] == sorted(key for key, _ in lines)
    sorted_shape = Shape(write_shape(tmp_path / "other", 10, shuffled=False))
    assert sorted_shape.ascending and sorted_shape.by_id().tolist() == list(range(10))
