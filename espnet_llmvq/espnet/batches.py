"""Batches by LLM positions for any number of sequences: those of ESPnet's `numel` sampler, in arrays.

ESPnet's own keeps all ids, shapes and batches as Python objects, and its data loader a set of all ids: some 700 bytes a
sequence in each process. Here it is some 30.
"""

import collections.abc
import logging

import numpy as np
from espnet2.samplers.abs_sampler import AbsSampler

from espnet_llmvq.sequence.shape import Shape

CHUNK = 1 << 16  # lengths that are Python numbers at a time


class Batch(collections.abc.Sequence):
    """Ids of a batch, read from the file of positions when they are asked for. For another process: a tuple of them."""

    __slots__ = ("id_of", "places")

    def __init__(self, id_of, places):
        self.id_of, self.places = id_of, places

    def __len__(self):
        return len(self.places)

    def __getitem__(self, i):
        return Batch(self.id_of, self.places[i]) if isinstance(i, slice) else self.id_of(self.places[i])

    def __reduce__(self):
        return tuple, (list(self),)


def batch_sizes(lengths, batch_bins, least=1, drop_last=False):
    """Sizes of batches of sequences of rising `lengths` (N,), as ESPnet's `NumElementsBatchSampler` has them.

    A batch ends with the sequence that brings it, padded, beyond `batch_bins` positions, if it has `least` sequences
    then. drop_last: without the rest behind the last one. A rest of fewer than `least` is spread over the last batches.
    """
    sizes, size = [], 0
    for first in range(0, len(lengths), CHUNK):
        for length in lengths[first : first + CHUNK].tolist():
            size += 1
            if size * length > batch_bins and size >= least:
                sizes.append(size)
                size = 0
    if size and not (drop_last and sizes):
        sizes.append(size)
    if len(sizes) > 1 and sizes[-1] < least:
        for i in range(sizes.pop()):
            sizes[-(i % len(sizes)) - 1] += 1
    return sizes


class PositionsSampler(AbsSampler):
    """`NumElementsBatchSampler` of ESPnet on one file of positions; its batches are `Batch`es of the same ids.

    Raises UserError as `Shape`.
    """

    def __init__(self, shape_file, batch_bins, least=1, sort_in_batch="descending", sort_batch="ascending",
                 drop_last=False):  # fmt: skip
        for name, value in (("sort_in_batch", sort_in_batch), ("sort_batch", sort_batch)):
            if value not in ("ascending", "descending"):
                raise ValueError(f"{name} must be ascending or descending: {value}")
        self.shape = Shape(shape_file)
        self.order = np.argsort(self.shape.lengths, kind="stable").astype(np.uint32)
        sizes = batch_sizes(self.shape.lengths[self.order], batch_bins, least, drop_last)
        self.ends = np.cumsum(sizes)
        self.in_batch, self.of_batches = (-1 if s == "descending" else 1 for s in (sort_in_batch, sort_batch))
        self.said = f"batch_bins={batch_bins}, sort_in_batch={sort_in_batch}, sort_batch={sort_batch}"

    def __repr__(self):
        return f"{type(self).__name__}(N-batch={len(self)}, {self.said})"

    def __len__(self):
        return len(self.ends)

    def __iter__(self):
        for i in range(len(self))[:: self.of_batches]:
            start = int(self.ends[i - 1]) if i else 0
            yield Batch(self.id_of, range(start, int(self.ends[i]))[:: self.in_batch])

    def id_of(self, place):
        """The id at a place in the order of lengths."""
        return self.shape.id(self.order[place])


def are_ours(type, shape_files):
    """Whether batches of a type of ESPnet's samplers are made here; all others are by ESPnet."""
    return type == "numel" and len(shape_files) == 1


def batch_sampler(type, shape_files, batch_bins, min_batch_size=1, sort_in_batch="descending",
                  sort_batch="ascending", drop_last=False, **others):  # fmt: skip
    """The sampler that ESPnet's `build_batch_sampler` makes of the same arguments; of type `numel` on one file ours."""
    if are_ours(type, shape_files):
        return PositionsSampler(shape_files[0], batch_bins, min_batch_size, sort_in_batch, sort_batch, drop_last)
    from espnet2.samplers.build_batch_sampler import build_batch_sampler

    return build_batch_sampler(
        type=type, shape_files=shape_files, batch_bins=batch_bins, min_batch_size=min_batch_size,
        sort_in_batch=sort_in_batch, sort_batch=sort_batch, drop_last=drop_last, **others,
    )  # fmt: skip


def iter_factory(task, args, options, mode):
    """ESPnet's `build_sequence_iter_factory` for batches that `are_ours`, without a set of all ids.

    task: a task class; options: ESPnet's `IteratorOptions`. Each process has every `world size`th sequence of every
    batch, from its rank on.
    """
    import torch
    from espnet2.iterators.sequence_iter_factory import RawSampler, SequenceIterFactory

    world, rank = 1, 0
    if options.distributed:
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    least = world if options.distributed else args.min_batch_size
    sampler = PositionsSampler(
        options.shape_files[0], options.batch_bins, least, args.sort_in_batch, args.sort_batch, args.drop_last_iter
    )
    batches = list(sampler)[: options.num_batches]
    sizes = [len(batch) for batch in batches]
    logging.info(f"[{mode}] Batch sampler: {sampler}")
    logging.info(
        f"[{mode}] mini-batch sizes summary: N-batch={len(sizes)}, "
        f"mean={np.mean(sizes):.1f}, min={np.min(sizes)}, max={np.max(sizes)}"
    )
    if min(sizes) < world:
        raise RuntimeError(f"The batch-size must be equal or more than world_size: {min(sizes)} < {world}")
    if world > 1:
        batches = [batch[rank::world] for batch in batches]
    dataset = task.build_dataset(args, options)  # sequences are found by an index on disk
    logging.info(f"[{mode}] dataset:\n{dataset}")
    return SequenceIterFactory(
        dataset=dataset, batches=RawSampler(batches), seed=args.seed, num_iters_per_epoch=options.num_iters_per_epoch,
        shuffle=options.train, shuffle_within_batch=args.shuffle_within_batch, num_workers=args.num_workers,
        collate_fn=options.collate_fn, pin_memory=args.ngpu > 0,
    )  # fmt: skip
