"""The CTC heads of an encoder, their targets and loss."""

import torch
import torch.nn.functional as F

from espnet_llmvq.bridge.bridge import Projector
from espnet_llmvq.bridge.quantizer import cosine
from espnet_llmvq.model.losses import IGNORE


class CTCHead(torch.nn.Module):
    """Linear layer from encoder frames to tokens and blank; names as in ESPnet's CTC."""

    def __init__(self, input_size, vocab_size, blank, dropout_rate=0.0):
        super().__init__()
        self.ctc_lo = torch.nn.Linear(input_size, vocab_size)
        self.blank, self.dropout_rate = blank, dropout_rate

    @property
    def ids(self):
        """(V,) token of the LLM that each row stands for; the blank's counts for nothing."""
        return torch.arange(self.ctc_lo.out_features, device=self.ctc_lo.weight.device)

    def forward(self, x):
        """(B, T, D) -> logits (B, T, V)."""
        return self.ctc_lo(F.dropout(x, self.dropout_rate, self.training))


class PieceHead(torch.nn.Module):
    """From encoder frames to P spelling pieces and a blank: scaled cosines with the rows that these have in the LLM.

    So its projector is the start of a bridge's: what it writes lies next to rows of the LLM's own table.

    rows: (P, W) of the LLM's input table; ids: (P,) their tokens in the LLM (see `llm.spelling`). hidden_size,
    dropout_rate: of the projector. The blank, the last label, is a learned vector.
    """

    def __init__(self, input_size, rows, ids, temperature=0.05, hidden_size=1024, dropout_rate=0.0):
        super().__init__()
        self.projector = Projector(input_size, rows.shape[1], hidden_size, dropout_rate=dropout_rate)
        # From the directory of the pieces each time: ESPnet, which averages checkpoints, would add up the ids.
        self.register_buffer("rows", rows.detach().clone().float(), persistent=False)
        self.register_buffer("ids", ids.detach().clone(), persistent=False)
        # In a direction of its own. The mean of the rows is near to each of them: from there on, CTC wrote nothing but
        # blanks for 300 steps and more, else for 50.
        self.blank_vector = torch.nn.Parameter(torch.randn(1, rows.shape[1]) * self.rows.std())
        self.blank, self.temperature = len(rows), temperature

    def forward(self, x):
        """(B, T, D) -> logits (B, T, P + 1)."""
        z = self.projector(x).flatten(0, 1)
        logits = cosine(z, torch.cat([self.rows, self.blank_vector])) / self.temperature
        return logits.view(*x.shape[:2], -1)


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
