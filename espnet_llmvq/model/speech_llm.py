"""`SpeechLLM`: encoder, bridge, causal LM and CTC head -> loss, statistics, weight."""

import math

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.bridge.diagnostics import drift
from espnet_llmvq.llm.ends import token_inputs
from espnet_llmvq.llm.packing import check_no_leak, packed_length
from espnet_llmvq.model.checkpoint import PartialCheckpoint
from espnet_llmvq.model.ctc import ctc_loss, ctc_targets
from espnet_llmvq.model.freezing import check_precision, keep_frozen_in_eval, trains
from espnet_llmvq.model.freezing import freeze as freeze_parameters
from espnet_llmvq.model.losses import COUNT, SPEECH, assemble, check_context, next_token_loss, weighed
from espnet_llmvq.speech import spans
from espnet_llmvq.speech.frames import compact, merge_runs, valid_mask

SPAN_ENCODINGS = ("concatenated", "separate")


class SpeechLLM(PartialCheckpoint, AbsESPnetModel):
    """Speech LLM with a bridge (arXiv 2506.05706, section 2).

    Args:
        speech_encoder: `SpeechEncoder` or `PretrainedEncoder`.
        ctc: `CTCHead` or None.
        bridge: `Bridge`, or None when only the encoder trains.
        llm: causal LM (transformers) or None when it does not run.
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
        mask_frames: in training, mask what a frozen pretrained encoder makes as in the training of the layers above it,
            so that their CTC errs as it will on other speech. Other frozen encoders mask nothing.
        packing: LLM positions of a row into which several sequences are packed; true: as many as the LLM's
            context holds; none: a row for each sequence.
    """

    def __init__(
        self, speech_encoder, ctc, bridge, llm, aligned_start, eos_id, freeze=(), external=(), autocast=False, *,
        ctc_weight=0.0, start_weight=0.0, llm_weight=1.0,
        drop_blank=None, merge_runs=False, span_encoding="concatenated", mask_frames=True,
        packing=None,
    ):  # fmt: skip
        super().__init__()
        self.speech_encoder, self.ctc, self.bridge = speech_encoder, ctc, bridge
        self.llm, self.aligned_start, self.eos_id = llm, aligned_start, eos_id
        self.loss_weights = {"ctc": ctc_weight, "start": start_weight, "llm": llm_weight}
        self.drop_blank, self.merge_runs, self.mask_frames = drop_blank, merge_runs, mask_frames
        self.autocast, self.external = autocast, tuple(external)
        self.concatenate = check_name("span_encoding", span_encoding, SPAN_ENCODINGS) == "concatenated"
        self.packing, self.packing_checked = packed_length(packing, llm), False
        self.drift_of = None, None  # versions of codebook and table, and the drift of these
        self.join_gradients = None  # where processes share the model: see espnet/fsdp.py
        for part, weight in (("ctc", ctc_weight), ("aligned_start", start_weight), ("llm", llm_weight)):
            if weight and getattr(self, part) is None:
                raise UserError(f"model_conf: the loss of {part} has weight {weight} but there is no {part}")
        if (drop_blank is not None or merge_runs) and ctc is None:
            raise UserError("model_conf: drop_blank and merge_runs need an encoder with a CTC head")
        freeze_parameters(self, freeze)
        check_precision(self)
        if start_weight and aligned_start.targets == "ctc_head" and (ctc is None or trains(ctc) or bridge.stack != 1):
            raise UserError(
                "aligned_start_conf.targets: ctc_head needs a frozen encoder with a CTC head, and bridge_conf.stack 1"
            )
        self.train(self.training)

    def to(self, *args, dtype=None, **kwargs):
        """Like `Module.to`, but no `dtype` is taken: ESPnet's trainer gives its own, for all parts alike, and each has
        the precision here that it will be decoded in."""
        return super().to(*args, **kwargs)

    def train(self, mode=True):
        """Like `Module.train`, but what is frozen stays in eval mode, see `keep_frozen_in_eval`."""
        super().train(mode)
        keep_frozen_in_eval(self, self.external)
        return self

    def check_packing(self):
        """Raise UserError, once, for an LLM that lets packed sequences see each other."""
        if self.packing and not self.packing_checked:
            check_no_leak(self.llm)
            self.packing_checked = True

    def encode(self, speech, lengths):
        """Waveforms (N, S) or cached frames (N, T, D), (N,) -> ((N, T, D), (N,) frames)."""
        return spans.encode(self.speech_encoder, speech, lengths)

    def encode_spans(self, tokens, speech, speech_lengths, speech_steps):
        """Frames of the speech spans of a batch: ((N, T, D), (N,)), see `speech.spans`. Arguments as of `forward`."""
        counts = (tokens == SPEECH).sum(1).tolist()
        return spans.encode_spans(
            self.speech_encoder, speech, speech_lengths, speech_steps, counts, self.concatenate, self.masks_frames
        )

    @property
    def masks_frames(self):
        """Whether frames are masked as in the encoder's training. A frozen one, in eval mode, does not know."""
        return self.training and self.mask_frames

    def shorten(self, frames, lengths, values=None):
        """Drop blank frames and merge runs as asked: (N, T, D), (N,) -> (N, T', D), (N,).

        values (N, T, V): to be shortened as the frames are, in their place.
        """
        values = frames if values is None else values
        if self.drop_blank is None and not self.merge_runs:
            return values, lengths
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            posterior = self.ctc(frames.float()).softmax(-1)
        limit = 1.0 if self.drop_blank is None else self.drop_blank
        keep = posterior[..., self.ctc.blank] <= limit
        if self.merge_runs:
            return merge_runs(values, lengths, posterior.argmax(-1), keep)
        return compact(values, lengths, keep)

    def bridge_speech(self, frames, lengths):
        """Encoder frames (N, T, D), (N,) -> LLM inputs ((N, S, H), (N,) steps, statistics)."""
        return self.bridge(*self.shorten(frames, lengths))

    def compared(self):
        """Parameters of which `codebook_drift` tells."""
        return [self.bridge.codebook, *self.llm.get_input_embeddings().parameters()]

    def forget_drift(self, *_):
        """Hook behind a step of an optimizer: fused ones, and shards, leave the version of a parameter as it was."""
        has_both = getattr(self.bridge, "codebook", None) is not None and self.llm is not None
        if has_both and any(p.requires_grad for p in self.compared()):
            self.drift_of = None, None

    def codebook_drift(self):
        """{"codebook_drift"}: how far the codebook is from the LLM's table; {} without a codebook or LLM."""
        codebook = getattr(self.bridge, "codebook", None)
        if codebook is None or self.llm is None:
            return {}
        # Of a large table it takes as long as a step: again only when one of the two has changed.
        now = [p._version for p in self.compared()]
        if self.drift_of[0] != now:
            self.drift_of = now, drift(codebook, token_inputs(self.llm))
        return {"codebook_drift": self.drift_of[1]}

    def start_loss(self, frames, lengths, targets, target_lengths):
        """(sum, count) of the loss of the aligned start: over tokens by CTC, over steps when it follows the CTC head.

        Against the transcript every frame counts, as CTC needs the blanks; after the CTC head, the steps that the
        LLM will get.
        """
        if self.aligned_start.targets == "transcript":
            z, steps = self.bridge.project(frames, lengths)
            return self.aligned_start(z, steps, targets, target_lengths), int(target_lengths.sum())
        frames, lengths = self.shorten(frames, lengths)
        z, steps = self.bridge.project(frames, lengths)
        inside = valid_mask(steps, z.shape[1])
        with torch.no_grad():
            posterior = self.ctc(frames).float().softmax(-1)[inside]
        return self.aligned_start.cross_entropy(z[inside], posterior, self.ctc), len(posterior)

    def llm_loss(self, tokens, labels, frames, lengths, heard=None):
        """(sum, count) of the LLM's loss, and statistics. frames (N, T, D), lengths (N,): None without speech.

        heard: (rows, weights, lengths) of text as if heard, which is in no statistic of the bridge; None: none.
        """
        steps, step_lengths, stats = None, None, {}
        if frames is not None:
            steps, step_lengths, stats = self.bridge_speech(frames, lengths)
        elif torch.distributed.is_available() and torch.distributed.is_initialized():
            # ESPnet gathers statistic by statistic: all processes must have the same. It leaves out NaN.
            stats = dict.fromkeys(self.bridge.statistic_names(), math.nan)
        if stats:
            stats.update(self.codebook_drift())
        embed, simulated = self.llm.get_input_embeddings(), ()
        if heard is not None:
            simulated = self.bridge.heard(*heard[:2], embed).split(heard[2].tolist())
        inputs, targets = assemble(embed, tokens, labels, steps, step_lengths, simulated)
        if self.join_gradients is not None:
            inputs[0] = self.join_gradients(inputs[0], frames is not None, heard is not None)
        check_context(self.llm, inputs)
        self.check_packing()
        loss, count, stats["acc"] = next_token_loss(self.llm, inputs, targets, self.packing)
        if frames is None and self.training and torch.is_grad_enabled() and not loss.requires_grad:
            raise UserError(
                "a batch of text alone trains nothing where the LLM is frozen; train the LLM or LoRA (llm_conf.lora), "
                "or leave sequences without speech out of the mixture"
            )
        return loss, count, stats

    def forward(
        self, tokens, labels, speech=None, speech_lengths=None, speech_steps=None,
        heard_rows=None, heard_weights=None, heard_lengths=None, **kwargs,
    ):  # fmt: skip
        """(loss, statistics, weight) of a batch of B sequences with N speech spans in all.

        tokens (B, U): token ids, SPEECH (-1) where a speech span stands, HEARD (-3) where text as if heard does, PAD
        (-2) behind the end.
        labels (B, U): the id where it is learnt, IGNORE (-100) elsewhere.
        speech (N, S) waveforms, or (N, T, D) cached encoder frames, of all speech spans in order; None for text alone.
        speech_lengths (N,): in samples or frames.
        speech_steps (N,): encoder steps of a piece cut out of a sound file, 0 for a whole file.
        heard_rows, heard_weights (M, k): of all M steps of text as if heard, rows of the LLM's table and their weights;
        heard_lengths: steps of each such span. None without any.

        The weight, by which ESPnet averages, is the number of tokens in the LLM's loss, without one that of the
        transcripts. Of several losses each has a count of its own, in the statistics too; see `weighed`.
        """
        weights, losses, stats, frames, lengths = self.loss_weights, {}, {}, None, None
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.autocast):
            if speech is not None:
                frames, lengths = self.encode_spans(tokens, speech, speech_lengths, speech_steps)
            if weights["ctc"] or weights["start"]:
                if frames is None or ((tokens == SPEECH).sum(1) != 1).any():
                    raise UserError(
                        "CTC and aligned start need one speech span in every sequence; leave text, also as if heard, "
                        "out of the mixture"
                    )
                targets, target_lengths = ctc_targets(tokens, labels, self.eos_id)
                weight = int(target_lengths.sum())
            if weights["ctc"]:
                losses["ctc"] = ctc_loss(self.ctc(frames), lengths, targets, target_lengths, self.ctc.blank), weight
            if weights["start"]:
                losses["start"] = self.start_loss(frames, lengths, targets, target_lengths)
            if weights["llm"]:
                heard = None if heard_rows is None else (heard_rows, heard_weights, heard_lengths)
                loss, weight, stats = self.llm_loss(tokens, labels, frames, lengths, heard)
                losses["llm"] = loss, weight
        means, counts = weighed(losses, weight, tokens.device)
        total = sum(weights[name] * mean for name, mean in means.items())
        stats.update({f"loss_{name}": mean.detach() for name, mean in means.items()})
        stats.update({f"{COUNT}{name}": torch.tensor(float(count)) for name, count in counts.items()})
        stats["loss"] = total.detach().clone()  # ESPnet divides the loss by accum_grad, in its place
        return force_gatherable((total, stats, torch.tensor(float(weight))), tokens.device)

    def collect_feats(self, tokens, labels, speech=None, speech_lengths=None, **kwargs):
        """Features for ESPnet's statistics (`global_mvn`)."""
        feats, lengths = self.speech_encoder.features(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}
