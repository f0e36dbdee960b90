"""The CTC head of an encoder, its targets and its loss."""

import torch
import torch.nn.functional as F

from espnet_llmvq.model.losses import IGNORE


class CTCHead(torch.nn.Module):
    """Linear layer from encoder frames to tokens and blank; names as in ESPnet's CTC."""

    def __init__(self, input_size, vocab_size, blank, dropout_rate=0.0):
        super().__init__()
        self.ctc_lo = torch.nn.Linear(input_size, vocab_size)
        self.blank, self.dropout_rate = blank, dropout_rate

    def forward(self, x):
        """(B, T, D) -> logits (B, T, V)."""
        return self.ctc_lo(F.dropout(x, self.dropout_rate, self.training))


def ctc_targets(tokens, labels, eos_id):
    """Transcripts for CTC: the tokens with loss, without the end token. (B, U), (B, U) -> ((B, W), (B,))."""
    rows = [row[(row >= 0) & (wanted != IGNORE) & (row != eos_id)] for row, wanted in zip(tokens, labels)]
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return torch.nn.utils.rnn.pad_sequence(rows, True), lengths


def ctc_loss(logits, lengths, targets, target_lengths, blank):
    """CTC negative log-likelihood, summed over the batch, in float32.

    logits (B, T, V), lengths (B,), targets (B, W), target_lengths (B,). An utterance that is too short for
    its target counts as zero.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, targets, lengths, target_lengths, blank, reduction="sum", zero_infinity=True)
