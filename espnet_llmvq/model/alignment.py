"""Aligned start: scaled cosines between projector outputs and the LLM's embedding table as logits of tokens.

Models trained from scratch need help to find the alignment that [2506.05706] gets from its pretrained parts.
The idea of aligning speech to the LLM table by CTC before the LLM is touched is DirectSpeech2LLM's.
"""

import torch

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.bridge.quantizer import cosine
from espnet_llmvq.model.ctc import PieceHead, ctc_loss


class AlignedStart(torch.nn.Module):
    """Logits cos(z, e_v) / temperature over the LLM table, one row of which is the CTC blank.

    blank: the row of a reserved token (`<blank>`), or None: then a learned vector after the table.
    targets: what the logits learn. `transcript`: its tokens, by CTC. `ctc_head`: at each step what the CTC head of
        the frozen encoder says there.
    """

    def __init__(self, embedding, temperature=0.05, blank=None, targets="transcript"):
        super().__init__()
        self.targets = check_name("targets", targets, ("transcript", "ctc_head"))
        self.register_buffer("table", embedding.detach().clone().float(), persistent=False)
        self.temperature = temperature
        self.blank = len(embedding) if blank is None else blank
        if blank is None:
            self.blank_vector = torch.nn.Parameter(self.table.mean(0, keepdim=True).clone())

    def logits(self, z):
        """z (B, T, D) -> (B, T, V or V + 1)."""
        table = self.table
        if self.blank == len(table):
            table = torch.cat([table, self.blank_vector])
        return cosine(z.reshape(-1, z.shape[-1]), table).view(*z.shape[:2], -1) / self.temperature

    def forward(self, z, lengths, targets, target_lengths):
        """Summed CTC loss of projector outputs z (B, T, D)."""
        return ctc_loss(self.logits(z), lengths, targets, target_lengths, self.blank)

    def cross_entropy(self, z, posterior, head):
        """Summed cross-entropy of steps z (N, D) with the `posterior` (N, R) of a CTC head.

        Rows of the table that are no tokens of the head have no share in it, and no more do tokens without a row
        (Gemma 3 has one).
        """
        logits = self.logits(z[None])[0].float()
        labels = torch.arange(len(head.ids), device=z.device)
        labels = labels[(labels != head.blank) & (head.ids < len(self.table))]
        target = torch.zeros_like(logits)
        target[:, head.ids[labels]] = posterior[:, labels]
        target[:, self.blank] = posterior[:, head.blank]
        return -(target * logits.log_softmax(-1)).sum()

    def begin_as(self, bridge, head):
        """Give the bridge's projector and the blank the weights that a CTC head has, where it has such: a `PieceHead`.

        Raises UserError if the projector is of other shapes.
        """
        if not isinstance(head, PieceHead):
            return
        wanted, given = bridge.projector.state_dict(), head.projector.state_dict()
        if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in given.items()}:
            raise UserError(
                f"the projector of the bridge begins as that of the CTC head, which has hidden_size "
                f"{head.projector.hidden.out_features} and stack 1; give bridge_conf the same"
            )
        bridge.projector.load_state_dict(given)
        if self.blank == len(self.table):
            self.blank_vector.data.copy_(head.blank_vector)
