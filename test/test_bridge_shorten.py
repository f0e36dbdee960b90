"""Dropping blank frames and merging runs, against cases worked out by hand and a loop over frames."""

import itertools

import pytest
import torch

from espnet_llmvq.speech.frames import compact, merge_runs


def test_compact_keeps_order_and_at_least_one_step():
    x = torch.arange(8.0).reshape(2, 4, 1)
    out, lengths = compact(x, torch.tensor([4, 3]), torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1]]).bool())
    assert lengths.tolist() == [2, 1]
    assert out[..., 0].tolist() == [[1, 3], [4, 0]]


def test_merge_runs_by_hand():
    x = torch.arange(1.0, 9.0).reshape(1, 8, 1).expand(2, 8, 1)
    # a a - a b b - -, the second utterance only the first five frames of it; "-" is the blank, 0
    labels = torch.tensor([[7, 7, 0, 7, 5, 5, 0, 0]]).expand(2, 8)
    out, lengths = merge_runs(x, torch.tensor([8, 5]), labels, labels != 0)
    assert lengths.tolist() == [3, 3]  # the blank that goes still parts the two a
    assert out[..., 0].tolist() == [[1.5, 4, 5.5], [1.5, 4, 5]]


def test_blank_frames_that_are_kept_make_a_step():
    x = torch.tensor([[[1.0], [2], [4], [8]]])
    labels = torch.tensor([[3, 0, 0, 3]])
    out, lengths = merge_runs(x, torch.tensor([4]), labels, torch.tensor([[True, True, False, True]]))
    assert out[0, :, 0].tolist() == [1, 2, 8]
    assert lengths.tolist() == [3]


def test_an_utterance_without_kept_frames_keeps_its_runs():
    x = torch.tensor([[[1.0], [3], [9]]])
    out, lengths = merge_runs(x, torch.tensor([2]), torch.zeros(1, 3).long(), torch.zeros(1, 3).bool())
    assert out[0, :, 0].tolist() == [2]
    assert lengths.tolist() == [1]


@pytest.mark.parametrize("seed", range(5))
def test_merge_runs_against_a_loop(seed):
    torch.manual_seed(seed)
    x, lengths = torch.randn(4, 20, 3, dtype=torch.float64), torch.tensor([20, 13, 7, 1])
    labels, keep = torch.randint(0, 3, (4, 20)), torch.rand(4, 20) < 0.6
    out, steps = merge_runs(x, lengths, labels, keep)
    for i, n in enumerate(lengths.tolist()):
        kept = keep[i, :n] if keep[i, :n].any() else torch.ones(n).bool()
        expected = []
        for _, run in itertools.groupby(range(n), key=lambda t: int(labels[i, t])):
            run = [t for t in run if kept[t]]
            if run:
                expected.append(x[i, run].mean(0))
        assert steps[i] == len(expected)
        torch.testing.assert_close(out[i, : steps[i]], torch.stack(expected))
        assert out[i, steps[i] :].abs().sum() == 0
        # alone as in the batch
        alone, _ = merge_runs(x[i : i + 1, :n], lengths[i : i + 1], labels[i : i + 1, :n], keep[i : i + 1, :n])
        torch.testing.assert_close(alone[0], out[i, : steps[i]])
