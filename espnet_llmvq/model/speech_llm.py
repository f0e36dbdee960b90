"""`SpeechLLM`: encoder, bridge, causal LM and CTC head -> loss, statistics, weight.

A batch holds sequences of spans (see `sequence.py`):
    speech (N, S) waveforms of all speech spans of the batch in order, or (N, T, D) cached encoder frames
    speech_lengths (N,) in samples or frames
    tokens (B, U) text tokens of each sequence, all its text spans joined
    layout (B, K, 3) per span: kind (0 text, 1 speech, -1 padding), length, loss (0 or 1). The length is in tokens
        for text; for speech 0, or in encoder steps for a piece cut out of a sound file (its samples are a
        whole number of steps)
"""

import math
import re

import torch
import torch.nn.functional as F
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.bridge.diagnostics import drift
from espnet_llmvq.llm.directory import context
from espnet_llmvq.llm.packing import check_no_leak, pack, packed_length
from espnet_llmvq.model.alignment import ctc_loss
from espnet_llmvq.model.checkpoint import PartialCheckpoint
from espnet_llmvq.speech.frames import compact, merge_runs, valid_mask

TEXT, SPEECH = 0, 1
IGNORE = -100
SPAN_ENCODINGS = ("concatenated", "separate")


class CTCHead(torch.nn.Module):
    """Linear layer from encoder frames to tokens and blank; names as in ESPnet's CTC."""

    def __init__(self, input_size, vocab_size, blank, dropout_rate=0.0):
        super().__init__()
        self.ctc_lo = torch.nn.Linear(input_size, vocab_size)
        self.blank, self.dropout_rate = blank, dropout_rate

    def forward(self, x):
        """(B, T, D) -> logits (B, T, V)."""
        return self.ctc_lo(F.dropout(x, self.dropout_rate, self.training))


class SpeechLLM(PartialCheckpoint, AbsESPnetModel):
    """Speech LLM with a bridge (arXiv 2506.05706, section 2).

    Args:
        speech_encoder: `SpeechEncoder`.
        ctc: `CTCHead` or None.
        bridge: `Bridge`.
        llm: causal LM (transformers) or None when only the encoder trains.
        aligned_start: `AlignedStart` or None.
        eos_id: end token.
        freeze: regular expressions; parameters whose name matches from the start do not train.
        external: prefixes of parameters that are loaded from elsewhere (LLM directory, encoder
            checkpoint). Frozen ones among them are left out of checkpoints.
        autocast: run training in bfloat16 autocast.
    Args by keyword only, the keys of `model_conf`:
        ctc_weight, start_weight, llm_weight: of the three losses, each a mean over its tokens.
        drop_blank: drop frames whose CTC blank posterior is above this before the bridge; None keeps all.
        merge_runs: replace neighbouring frames with the same best CTC token by their mean.
        span_encoding: of the pieces of a sequence: `concatenated` (joined at the input, encoded at once, split
            again) or `separate` (each alone).
        packing: LLM positions of a row into which several sequences are packed; true: as many as the LLM's
            context holds; none: a row for each sequence.
    """

    def __init__(
        self,
        speech_encoder,
        ctc,
        bridge,
        llm,
        aligned_start,
        eos_id,
        freeze=(),
        external=(),
        autocast=False,
        *,
        ctc_weight=0.0,
        start_weight=0.0,
        llm_weight=1.0,
        drop_blank=None,
        merge_runs=False,
        span_encoding="concatenated",
        packing=None,
    ):
        super().__init__()
        self.speech_encoder, self.ctc, self.bridge = speech_encoder, ctc, bridge
        self.llm, self.aligned_start, self.eos_id = llm, aligned_start, eos_id
        self.ctc_weight, self.start_weight, self.llm_weight = ctc_weight, start_weight, llm_weight
        self.drop_blank, self.merge_runs = drop_blank, merge_runs
        self.autocast, self.external = autocast, tuple(external)
        self.concatenate = check_name("span_encoding", span_encoding, SPAN_ENCODINGS) == "concatenated"
        self.packing, self.packing_checked = packed_length(packing, llm), False
        for part, weight in (("ctc", ctc_weight), ("aligned_start", start_weight), ("llm", llm_weight)):
            if weight and getattr(self, part) is None:
                raise UserError(f"model_conf: the loss of {part} has weight {weight} but there is no {part}")
        if (drop_blank is not None or merge_runs) and ctc is None:
            raise UserError("model_conf: drop_blank and merge_runs need an encoder with a CTC head")
        for pattern in freeze:
            matched = [p for name, p in self.named_parameters() if re.match(pattern, name)]
            if not matched:
                raise UserError(f"freeze: {pattern!r} matches no parameter")
            for p in matched:
                p.requires_grad = False
        if start_weight and aligned_start.targets == "ctc_head":
            if ctc is None or any(p.requires_grad for p in ctc.parameters()) or bridge.stack != 1:
                raise UserError(
                    "aligned_start_conf.targets: ctc_head needs a frozen encoder with a CTC head, "
                    "and bridge_conf.stack 1"
                )
        self.train(self.training)

    def train(self, mode=True):
        """Like `Module.train`, but parts whose parameters are all frozen stay in eval mode.

        So does batch normalisation of a pretrained part: the pieces of interleaved sequences would move its
        statistics away from those of whole utterances.
        """
        super().train(mode)
        for name, module in self.named_modules():
            if module is self:
                continue
            params = list(module.parameters())
            pretrained = isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and name.startswith(self.external)
            if params and not any(p.requires_grad for p in params) or pretrained:
                module.eval()
        for module in self.modules():
            # Transformers recomputes activations in layers in training mode only; a frozen LLM's take as much memory.
            # The layer itself does nothing else by this flag, and its dropout modules keep their own.
            if getattr(module, "gradient_checkpointing", False):
                module.training = mode
        return self

    def check_packing(self):
        """Raise UserError, once, for an LLM that lets packed sequences see each other."""
        if not self.packing_checked:
            check_no_leak(self.llm)
            self.packing_checked = True

    # Speech

    def encode(self, speech, lengths):
        """Waveforms (N, S) or cached frames (N, T, D) -> ((N, T, D), (N,) frames)."""
        if speech.dim() == 3:
            return speech, lengths
        frozen = not any(p.requires_grad for p in self.speech_encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.speech_encoder(speech, lengths)

    def encode_spans(self, speech, lengths, layout):
        """Encode the speech spans of a batch, one row each: -> ((N, T, D), (N,) frames).

        All pieces of a sequence are joined, encoded at once and split again ([2607.01733], word level), so a piece
        has the frames of its own samples, in the context of the other pieces of its sequence and of no other.
        Whole files are encoded alone.
        """
        counts = [[length for kind, length, _ in spans if kind == SPEECH] for spans in layout.tolist()]
        if speech.dim() == 3 or not any(map(any, counts)):
            return self.encode(speech, lengths)
        step, waves, groups = self.speech_encoder.rate.step, [], []
        spans = iter(zip(speech, lengths.tolist()))
        for sequence in counts:
            open_group = False
            for count in sequence:
                wave, n = next(spans)
                if count and count * step != n:
                    raise RuntimeError(f"a piece of {n} samples does not fill {count} steps of {step}")
                if not (self.concatenate and open_group and count):
                    waves.append([])
                    groups.append([])
                open_group = count > 0
                waves[-1].append(wave[:n])
                groups[-1].append(count)
        rows = [torch.cat(parts) for parts in waves]
        totals = [len(row) for row in rows]
        for i, group in enumerate(groups):
            # Windows and convolutions need some samples after the last step to make a frame of it.
            while sum(group) > int(self.speech_encoder.rate.frames(totals[i])):
                totals[i] += step
        padded = speech.new_zeros(len(rows), max(totals))
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        frames, encoded = self.encode(padded, lengths.new_tensor(totals))
        pieces = []
        for row, n, group in zip(frames, encoded.tolist(), groups):
            pieces += row[: sum(group)].split(group) if any(group) else [row[:n]]
        return torch.nn.utils.rnn.pad_sequence(pieces, True), lengths.new_tensor([len(p) for p in pieces])

    def shorten(self, frames, lengths):
        """Drop blank frames and merge runs as asked: (N, T, D), (N,) -> (N, T', D), (N,)."""
        if self.drop_blank is None and not self.merge_runs:
            return frames, lengths
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            posterior = self.ctc(frames.float()).softmax(-1)
        limit = 1.0 if self.drop_blank is None else self.drop_blank
        keep = posterior[..., self.ctc.blank] <= limit
        if self.merge_runs:
            return merge_runs(frames, lengths, posterior.argmax(-1), keep)
        return compact(frames, lengths, keep)

    def bridge_speech(self, frames, lengths):
        """Encoder frames (N, T, D), (N,) -> LLM inputs ((N, S, H), (N,) steps, statistics)."""
        return self.bridge(*self.shorten(frames, lengths))

    def codebook_drift(self):
        """{"codebook_drift"}: how far the codebook is from the LLM's table; {} without a codebook or LLM."""
        codebook = getattr(self.bridge, "codebook", None)
        if codebook is None or self.llm is None:
            return {}
        return {"codebook_drift": drift(codebook, self.llm.get_input_embeddings().weight)}

    # Sequences

    def assemble(self, steps, step_lengths, tokens, layout):
        """Join speech steps and token embeddings in the order of the spans.

        steps (N, S, H), step_lengths (N,), tokens (B, U), layout (B, K, 3) ->
        (list of B (P_b, H) inputs, list of B (P_b,) labels with IGNORE outside the loss).
        """
        embedded = self.llm.get_input_embeddings()(tokens)
        counts = step_lengths.tolist() if step_lengths is not None else []
        inputs, labels, speech = [], [], 0
        for b, spans in enumerate(layout.tolist()):
            parts, targets, at = [embedded[b, :0]], [tokens[b, :0]], 0
            for kind, length, loss in spans:
                if kind == SPEECH:
                    part = steps[speech, : counts[speech]].to(embedded.dtype)
                    target = tokens.new_full((len(part),), IGNORE)
                    speech += 1
                elif kind == TEXT:
                    part = embedded[b, at : at + length]
                    target = tokens[b, at : at + length]
                    target = target if loss else torch.full_like(target, IGNORE)
                    at += length
                else:
                    continue
                parts.append(part)
                targets.append(target)
            inputs.append(torch.cat(parts))
            labels.append(torch.cat(targets))
        return inputs, labels

    def check_context(self, inputs):
        """Raise UserError if one of the inputs (P, H) has more positions than the LLM's context."""
        longest, limit = max(map(len, inputs)), context(self.llm.config)
        if limit is not None and longest > limit:
            raise UserError(
                f"a sequence has {longest} LLM positions, but the LLM's context has {limit}; drop such texts "
                "(llmvq sequences make --context), and utterances by a lower --max_duration (stage 4)"
            )

    def llm_loss(self, inputs, labels):
        """Next-token cross-entropy over the labelled positions: (sum, number of tokens, accuracy)."""
        pad = torch.nn.utils.rnn.pad_sequence
        if self.packing:
            self.check_packing()
            embeds, positions, labels = pack(inputs, labels, self.packing, IGNORE)
            where = {"position_ids": positions}
        else:
            embeds, labels = pad(inputs, True), pad(labels, True, IGNORE)
            inside = [torch.ones(len(x), dtype=torch.long, device=x.device) for x in inputs]
            where = {"attention_mask": pad(inside, True)}
        hidden = self.llm.get_decoder()(inputs_embeds=embeds, use_cache=False, **where).last_hidden_state
        targets = labels[:, 1:]
        chosen = targets != IGNORE
        # Logits of labelled positions only: a row of them is the size of the vocabulary.
        logits = self.llm.get_output_embeddings()(hidden[:, :-1][chosen]).float()
        loss = F.cross_entropy(logits, targets[chosen], reduction="sum")
        accuracy = (logits.detach().argmax(-1) == targets[chosen]).float().mean()
        return loss, int(chosen.sum()), accuracy

    def ctc_targets(self, tokens, layout):
        """Transcripts for CTC: the tokens with loss, without the end token: ((B, U), (B,))."""
        rows = []
        for row, spans in zip(tokens, layout.tolist()):
            at, kept = 0, []
            for kind, length, loss in spans:
                if kind == TEXT:
                    kept += [row[at : at + length]] if loss else []
                    at += length
            row = torch.cat(kept) if kept else row[:0]
            rows.append(row[row != self.eos_id])
        lengths = torch.tensor([len(r) for r in rows], device=tokens.device)
        return torch.nn.utils.rnn.pad_sequence(rows, True), lengths

    def start_loss(self, frames, lengths, targets, target_lengths):
        """Loss of the aligned start: a mean over tokens by CTC, over steps when it follows the CTC head.

        Against the transcript every frame counts, as CTC needs the blanks; after the CTC head, the steps that the
        LLM will get.
        """
        if self.aligned_start.targets == "transcript":
            z, steps = self.bridge.project(frames, lengths)
            return self.aligned_start(z, steps, targets, target_lengths) / target_lengths.sum()
        frames, lengths = self.shorten(frames, lengths)
        z, steps = self.bridge.project(frames, lengths)
        inside = valid_mask(steps, z.shape[1])
        with torch.no_grad():
            posterior = self.ctc(frames).float().softmax(-1)[inside]
        return self.aligned_start.cross_entropy(z[inside], posterior, self.ctc.blank) / len(posterior)

    def forward(self, tokens, layout, speech=None, speech_lengths=None, **kwargs):
        """Returns (loss, statistics, weight); the weight is the number of tokens in the loss."""
        device = tokens.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.autocast):
            losses, stats, frames, lengths = {}, {}, None, None
            if speech is not None:
                frames, lengths = self.encode_spans(speech, speech_lengths, layout)
            if self.ctc_weight or self.start_weight:
                if frames is None or ((layout[..., 0] == SPEECH).sum(1) != 1).any():
                    raise UserError("CTC and aligned start need one speech span in every sequence")
                targets, target_lengths = self.ctc_targets(tokens, layout)
                weight = int(target_lengths.sum())
            if self.ctc_weight:
                loss = ctc_loss(self.ctc(frames), lengths, targets, target_lengths, self.ctc.blank)
                losses["ctc"] = (self.ctc_weight, loss / weight)
            if self.start_weight:
                losses["start"] = (self.start_weight, self.start_loss(frames, lengths, targets, target_lengths))
            if self.llm_weight:
                steps = step_lengths = None
                if frames is not None:
                    steps, step_lengths, stats = self.bridge_speech(frames, lengths)
                    stats.update(self.codebook_drift())
                elif torch.distributed.is_available() and torch.distributed.is_initialized():
                    # ESPnet gathers statistic by statistic: all processes must have the same. It leaves out NaN.
                    stats = dict.fromkeys(self.bridge.statistic_names(), math.nan)
                    stats.update(self.codebook_drift())
                inputs, labels = self.assemble(steps, step_lengths, tokens, layout)
                self.check_context(inputs)
                loss, weight, stats["acc"] = self.llm_loss(inputs, labels)
                losses["llm"] = (self.llm_weight, loss / weight)
        total = sum(w * value for w, value in losses.values())
        stats.update({f"loss_{name}": value.detach() for name, (_, value) in losses.items()})
        stats["loss"] = total.detach().clone()  # ESPnet divides the loss by accum_grad, in its place
        return force_gatherable((total, stats, torch.tensor(float(weight))), tokens.device)

    def collect_feats(self, tokens, layout, speech=None, speech_lengths=None, **kwargs):
        """Features for ESPnet's statistics (`global_mvn`)."""
        feats, lengths = self.speech_encoder.features(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}
