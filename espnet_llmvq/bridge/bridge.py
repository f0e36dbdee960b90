"""Bridges from encoder outputs to LLM inputs: stack frames, project, quantize (or not)."""

import torch

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.bridge import diagnostics
from espnet_llmvq.bridge.collapse import collapse_warnings
from espnet_llmvq.bridge.quantizer import hard_quantize, permuted_quantize, soft_quantize
from espnet_llmvq.speech.frames import stack_frames, valid_mask


class Projector(torch.nn.Module):
    """LayerNorm (optional), Linear, ReLU, Linear: (.., in) -> (.., out).

    [2506.05706] has no LayerNorm. We default to one: without it the hard quantizer collapses to a
    handful of rows when everything is trained from scratch.
    """

    def __init__(self, input_size, output_size, hidden_size=2048, layer_norm=True, dropout_rate=0.0):
        super().__init__()
        self.norm = torch.nn.LayerNorm(input_size) if layer_norm else torch.nn.Identity()
        self.hidden = torch.nn.Linear(input_size, hidden_size)
        self.dropout = torch.nn.Dropout(dropout_rate)
        self.output = torch.nn.Linear(hidden_size, output_size)

    def forward(self, x):
        return self.output(self.dropout(torch.relu(self.hidden(self.norm(x)))))


class Bridge(torch.nn.Module):
    """No quantizer (`none`): the SLAM-ASR projector, and the base of the quantizing bridges.

    Args:
        input_size: width of an encoder frame.
        embedding: (V, D) the LLM's input embedding table; a copy becomes the codebook.
        stack: frames concatenated into one step.
        hidden_size, layer_norm, dropout_rate: of the projector.
        match_norm: scale outputs to the mean norm of the table's rows (a continuous bridge only).
        output_scale: factor on the output.
    """

    def __init__(
        self, input_size, embedding, stack=5, hidden_size=2048, layer_norm=True, dropout_rate=0.0,
        match_norm=False, output_scale=1.0,
    ):  # fmt: skip
        super().__init__()
        self.stack, self.output_scale, self.match_norm = stack, output_scale, match_norm
        width = embedding.shape[1]
        self.projector = Projector(input_size * stack, width, hidden_size, layer_norm, dropout_rate)
        mean_norm = embedding.detach().norm(dim=-1).mean()
        self.mean_norm = 1.0 if mean_norm.is_meta else float(mean_norm)  # of shapes alone nothing is known

    def project(self, x, lengths):
        """Stack and project: (B, T, input_size) -> z (B, S, D), (B,) lengths in steps."""
        x, lengths = stack_frames(x, lengths, self.stack)
        return self.projector(x), lengths

    def quantize(self, z):
        """z (N, D) -> ((N, D) LLM inputs, `diagnostics.TopK` codebook rows or None)."""
        if self.match_norm:
            z = torch.nn.functional.normalize(z, dim=-1) * self.mean_norm
        return z, None

    def steps(self, x, lengths):
        """(B, T, input_size), (B,) -> (lengths (B,) in steps, inside (B, S) bool, z (N, D), out (N, D), kept).

        The N steps inside of all utterances, one after the other; out is what the LLM gets.
        """
        z, lengths = self.project(x, lengths)
        inside = valid_mask(lengths, z.shape[1])
        z = z[inside]
        out, kept = self.quantize(z)
        return lengths, inside, z, out * self.output_scale, kept

    def forward(self, x, lengths):
        """(B, T, input_size), (B,) -> ((B, S, D), (B,) steps, dict of statistics).

        Padded steps are zero and reach neither the quantizer nor the statistics.
        """
        lengths, inside, z, flat, kept = self.steps(x, lengths)
        out = flat.new_zeros(*inside.shape, flat.shape[1])
        out[inside] = flat
        return out, lengths, self.statistics(z, flat, kept)

    def heard(self, rows, weights, embed):
        """LLM inputs (N, D) of steps of text as if heard, which are rows of the LLM's table (N, k) with weights (N, k).

        Without a codebook: the weighted sum of the LLM's own embeddings, as long as what the bridge makes of speech.
        embed: module, ids (...) -> (..., D), the embeddings of the LLM.
        """
        summed = (weights[..., None] * embed(rows)).sum(1)
        return self.quantize(summed)[0] * self.output_scale

    def statistic_names(self):
        """Keys of `statistics`, in its order."""
        return ["bridge_steps", "bridge_norm_ratio", "output_cosine"]

    @torch.no_grad()
    def statistics(self, z, out, kept):
        """The scale and variety of the outputs of a batch. Arguments as `steps` returns them."""
        return {
            "bridge_steps": torch.tensor(float(len(out)), device=out.device),
            "bridge_norm_ratio": out.float().norm(dim=-1).mean() / self.mean_norm,
            "output_cosine": diagnostics.mean_pair_cosine(out),
        }

    def collapse_warnings(self, means):
        """`collapse.collapse_warnings` of this bridge: sentences on what has collapsed."""
        return collapse_warnings(means)


def check_top_k(top_k, rows):
    """The number of rows to keep. Raises UserError unless `top_k` is `all` or 1 to `rows`."""
    if top_k == "all":
        return rows
    if type(top_k) is int and top_k > rows:
        raise UserError(
            f"top_k: {top_k} is more than the {rows} rows of the codebook (the LLM's vocabulary); "
            "write 'all' to keep every row"
        )
    if type(top_k) is not int or top_k < 1:
        raise UserError(f"top_k: {top_k!r} must be 1 to {rows} (the vocabulary) or 'all'")
    return top_k


def derangement(rows, seed):
    """A permutation of `rows` row numbers that leaves none in its place: (rows,) long, the same for a seed.

    All rows in a random order, each followed by the next: one cycle.
    """
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    permutation = torch.empty_like(order)
    permutation[order] = order.roll(-1)
    return permutation


class QuantizingBridge(Bridge):
    """What hard and soft bridges share: the codebook, a copy of the LLM table, frozen or trainable.

    Args:
        codebook: `frozen` or `trainable`.
        top_k, temperature, renormalise: of the weights; see `soft_vq`. temperature `learned` is 1.0 with
            a temperature_rate of 1.
        temperature_rate: above 0, the temperature is learned, beginning at `temperature`; its logarithm is
            this times a parameter that begins at 0. The steps of Adam are as large as the learning rate
            whatever the gradient, so at rate 1 a short phase hardly moves it.
        permute_codebook: seed of a control: a row is found by its similarity as ever, and another row's
            value is put in its place (`derangement`). None: none.
        chunk: codebook rows compared at a time, or `auto`. Changes time and memory, not the result.
    """

    def __init__(
        self, input_size, embedding, codebook="frozen", top_k="all", temperature=1.0, temperature_rate=0.0,
        renormalise=True, permute_codebook=None, chunk="auto", **kwargs,
    ):  # fmt: skip
        super().__init__(input_size, embedding, **kwargs)
        rows = len(embedding)
        self.top_k = check_top_k(top_k, rows)
        if chunk != "auto" and not (type(chunk) is int and chunk > 0):
            raise UserError(f"chunk: {chunk!r} must be a number of rows above 0 or 'auto'")
        self.chunk = 0 if chunk == "auto" else chunk
        check_name("codebook", codebook, ("frozen", "trainable"))
        self.codebook = torch.nn.Parameter(embedding.detach().clone().float(), requires_grad=codebook == "trainable")
        self.renormalise = renormalise
        if temperature == "learned":
            temperature, temperature_rate = 1.0, temperature_rate or 1.0
        if not (isinstance(temperature, (int, float)) and temperature > 0):
            raise UserError(f"temperature: {temperature!r} must be above 0 or 'learned'")
        if not (isinstance(temperature_rate, (int, float)) and temperature_rate >= 0):
            raise UserError(f"temperature_rate: {temperature_rate!r} must be 0 (not learned) or above")
        self.first_temperature, self.temperature_rate = float(temperature), temperature_rate
        if temperature_rate:
            self.temperature_shift = torch.nn.Parameter(torch.zeros(()))
        if permute_codebook is not None:
            if type(permute_codebook) is not int or permute_codebook < 0 or rows < 2:
                raise UserError(f"permute_codebook: {permute_codebook!r} must be a seed, 0 or above")
            if not renormalise:
                raise UserError("permute_codebook needs renormalise: true")
            # From the seed, so it is not in checkpoints.
            self.register_buffer("permutation", derangement(rows, permute_codebook), persistent=False)
        else:
            self.permutation = None

    @property
    def temperature(self):
        if self.temperature_rate:
            return self.first_temperature * (self.temperature_rate * self.temperature_shift).exp()
        return self.first_temperature

    def weigh(self, z, hard):
        """The weighted sum of the kept rows; hard: the top row, straight through on the weights."""
        if self.permutation is not None:
            return permuted_quantize(z, self.codebook, self.permutation, self.top_k, self.temperature, hard, self.chunk)
        return soft_quantize(z, self.codebook, self.top_k, self.temperature, self.renormalise, hard, self.chunk)

    def heard(self, rows, weights, embed):
        """The weighted sum of the `top_k` heaviest rows, of the codebook: as of speech, with other weights."""
        weights, at = weights.topk(min(self.top_k, rows.shape[1]))
        rows = rows.gather(1, at)
        if self.renormalise:
            weights = weights / weights.sum(1, keepdim=True)
        if self.permutation is not None:
            rows = self.permutation[rows]
        return (weights[..., None] * self.codebook[rows]).sum(1) * self.output_scale

    @property
    def keeps_all(self):
        return self.top_k == len(self.codebook)

    def weights_entropy(self, z, kept):
        """Mean entropy of the weights; those that do not sum to one are divided by their sum."""
        if self.keeps_all:
            return diagnostics.full_entropy(z, self.codebook, self.temperature, self.chunk)
        return diagnostics.kept_entropy(kept.cosines, self.temperature)

    def statistic_names(self):
        own = ["codebook_share", "codebook_perplexity", "top_cosine", "weights_entropy"]
        return super().statistic_names() + own + ["temperature"] * bool(self.temperature_rate)

    @torch.no_grad()
    def statistics(self, z, out, kept):
        """Also how the codebook is used."""
        stats = super().statistics(z, out, kept)
        used = diagnostics.rows_in_use(kept.rows[:, 0], len(self.codebook))
        stats["codebook_share"], stats["codebook_perplexity"] = used
        stats["top_cosine"] = kept.cosines[:, 0].mean()
        stats["weights_entropy"] = self.weights_entropy(z, kept)
        if self.temperature_rate:
            stats["temperature"] = self.temperature.detach()
        return stats

    def collapse_warnings(self, means):
        return collapse_warnings(means, len(self.codebook) if self.keeps_all else 0)


class HardBridge(QuantizingBridge):
    """`hard`: each step becomes one row. straight_through: `output` (stage 1) or `weights` (stage 2)."""

    def __init__(self, input_size, embedding, straight_through="output", **kwargs):
        super().__init__(input_size, embedding, **kwargs)
        check_name("straight_through", straight_through, ("output", "weights"))
        if straight_through == "output" and self.codebook.requires_grad:
            raise UserError("codebook: trainable gets no gradient with straight_through: output; use weights")
        self.straight_through = straight_through

    def quantize(self, z):
        if self.straight_through == "output":
            return hard_quantize(z, self.codebook, self.chunk, self.permutation)
        return self.weigh(z, hard=True)

    def heard(self, rows, weights, embed):
        top = rows.gather(1, weights.argmax(1, keepdim=True))
        return super().heard(top, torch.ones_like(top, dtype=weights.dtype), embed)

    def weights_entropy(self, z, kept):
        if self.straight_through == "output":  # one row, and no weights behind it
            return kept.cosines.new_zeros(())
        return super().weights_entropy(z, kept)

    def collapse_warnings(self, means):
        # The output is one row, however flat the weights are that only pass gradient.
        return collapse_warnings(means)


class SoftBridge(QuantizingBridge):
    """`soft`: each step becomes a weighted sum of its top_k rows."""

    def quantize(self, z):
        return self.weigh(z, hard=False)


# By the name that a config gives: `bridge: soft`.
BRIDGES = {"none": Bridge, "hard": HardBridge, "soft": SoftBridge}
