"""Pretrained encoders through transformers: WavLM on waveforms, Whisper on its log-mel spectrum.

A `PretrainedEncoder` stands where `encoder.SpeechEncoder` does, or is its frontend, with layers above it that are
trained here. The directory (or hub id) is one that `save_pretrained` wrote: config.json, preprocessor_config.json,
weights.
"""

import copy

import torch

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_path
from espnet_llmvq.base.hub import from_pretrained
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.speech.frame_rate import (
    LAST,
    PRETRAINED,
    WEIGHTED,
    FrameRate,
    described,
    described_as,
    is_frontend,
    last_state,
)
from espnet_llmvq.speech.frames import valid_mask

AUTO, ALONE, PADDED = "auto", "alone", "padded"
# What a training config says beside `encoder` and `encoder_conf`: these encoders take the waveform as it is.
AS_IT_IS = {"frontend": None, "normalize": None, "specaug": None, "frame_stack": 1}


def settings(path, layer=None):
    """The keys of a training config for the encoder in `path`; `encoder_conf` has a layer only if one is given."""
    conf = {"path": path, **({} if layer is None else {"layer": layer})}
    return {"encoder": described(path)[0].model_type, "encoder_conf": conf, **AS_IT_IS, "ctc": False}


def as_frontend(path, layer=None):
    """The keys of a training config for the encoder in `path` as the frontend of layers that are trained on it."""
    conf = settings(path, layer)
    return {"frontend": conf["encoder"], "frontend_conf": conf["encoder_conf"], "normalize": None, "normalize_conf": {}}


def frames_are_trained(config, encoder_file):
    """Whether training with this config changes what an encoder cache holds: what was cached before is then no use.

    config: dict. With an encoder_file the weights of the layers are those of its training, and frozen.
    """
    if is_frontend(config):
        return False
    weighted = config.get("encoder") in PRETRAINED and (config.get("encoder_conf") or {}).get("layer") == WEIGHTED
    return bool(config.get("train_encoder")) or (weighted and not encoder_file)


def load(cls, path, weights=True):
    """A transformers model in float32, in eval mode; random without `weights`, from config.json alone.

    Raises UserError when the directory lacks tensors of it.
    """
    if not weights:
        return cls(copy.deepcopy(described(path)[0])).eval()
    local = check_path(path, what="encoder", remedy="give --pretrained_encoder PATH")
    model, info = from_pretrained(cls, path, local, dtype=torch.float32, output_loading_info=True)
    # A vector that WavLM's own pretraining puts in the place of masked frames; here nothing is masked.
    missing = sorted(set(info["missing_keys"]) - {"masked_spec_embed"})
    if missing:
        raise UserError(f"{path} lacks {len(missing)} tensors of {cls.__name__}: {', '.join(missing[:4])}")
    return model.eval()


class PretrainedEncoder(torch.nn.Module):
    """(B, S) waveforms -> (B, T, D) encoder frames, those of an utterance whatever else is in the batch.

    Args:
        path: directory or hub id.
        layer: `last`; a number N, the hidden state N as transformers counts them (0 is the input of the first layer);
            or `weighted`: a trainable mean of all hidden states with softmax weights, equal at first (SUPERB,
            arXiv 2105.01051, sec. 3).
        batch: `padded`: utterances of a batch at once, with their padding masked; frames are those of the utterance
            alone but for rounding. `alone`: one after the other; frames are the same to the last bit. `auto`: padded on
            a GPU, which short utterances alone do not fill; on a CPU padding costs time and gains none.
        weights: false: the directory holds none, they are in the checkpoint (of a packed system).
        train_layers: as a frontend, layers from the top that train; all below is frozen.
    `pretrained` holds the transformers model, `layer_weights` (L + 1,) the weights before the softmax. Its own masking
    and layer drop, of use in its pretraining, are off; dropout acts only when it trains. The last hidden state is the
    model's output, after its final LayerNorm; a checkpoint that was made with another has no `after_layer_norm`.
    """

    name = None  # the model_type of its config.json
    on_pretrained = False  # it stands on nothing, see `SpeechEncoder`

    def __init__(self, path, layer=LAST, batch=AUTO, weights=True, train_layers=0):
        super().__init__()
        self.path, self.layer, self.train_layers = path, layer, train_layers
        self.batch = check_name("encoder_conf.batch", batch, (AUTO, ALONE, PADDED))
        self.config, self.extractor = described_as(self.name, path)
        self.pretrained = self.load(path, weights)
        self.rate = FrameRate({"encoder": self.name, "encoder_conf": {"path": path}})
        last = self.config.num_hidden_layers
        if layer not in (LAST, WEIGHTED) and not (type(layer) is int and 0 <= layer <= last):
            raise UserError(f"encoder_conf.layer: {layer!r} must be {LAST}, {WEIGHTED} or a number from 0 to {last}")
        if not (type(train_layers) is int and 0 <= train_layers <= last) or (train_layers and layer != LAST):
            raise UserError(f"train_layers: {train_layers!r} must be a number from 0 to {last}, and layer be {LAST}")
        if layer == WEIGHTED:
            self.layer_weights = torch.nn.Parameter(torch.zeros(last + 1))
        if last_state({"encoder": self.name, "encoder_conf": {"path": path, "layer": layer}}):
            self.register_buffer("after_layer_norm", torch.ones(1))

    def save_description(self, directory):
        """Write what `weights: false` needs: config.json and preprocessor_config.json."""
        self.config.save_pretrained(directory)
        self.extractor.save_pretrained(directory)

    def output_size(self):
        return self.config.hidden_size

    def chosen(self, states):
        """Hidden states, L + 1 of (N, T, D), the last one normalised -> (N, T, D)."""
        if self.layer == WEIGHTED:
            return sum(w * state for w, state in zip(self.layer_weights.softmax(0), states))
        return states[-1 if self.layer == LAST else self.layer]

    def pieces(self, wave):
        """A waveform (S,) as the pieces that are encoded, each for itself."""
        return [wave]

    def as_frontend(self):
        """Freeze all but the layers that train, and return itself: what `SpeechEncoder` does with its frontend."""
        trained = set(self.trained_names())
        for name, p in self.pretrained.named_parameters():
            p.requires_grad = name in trained
        return self

    def trained_names(self):
        """Names of the parameters of `pretrained` that train as a frontend."""
        if not self.train_layers:
            return []
        layers, norm = self.top()  # of all layers, and the LayerNorm behind the last one
        own = {id(p) for module in (*layers[len(layers) - self.train_layers :], norm) for p in module.parameters()}
        return [name for name, p in self.pretrained.named_parameters() if id(p) in own]

    def from_cache(self, frames, lengths, augment=None):
        """`cacheable` frames -> encoder frames: ((B, T, D), (B,)) both. `above` is what the layers that train do."""
        return (self.above(frames, lengths) if self.train_layers else frames), lengths

    def encoded(self, waves):
        """Waveforms, N of (S,) -> N of (T, D)."""
        # The layer weights may train while all else is frozen.
        trains = any(p.requires_grad for p in self.pretrained.parameters())
        counts = [self.rate.frames(len(wave)) for wave in waves]
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            states = self.hidden_states(waves, counts)
        found = self.chosen(states)
        if found.shape[1] != max(counts):
            raise RuntimeError(f"{found.shape[1]} encoder frames are not {max(counts)}, as computed")
        return [x[:count] for x, count in zip(found, counts)]

    def forward(self, speech, lengths, augment=None):
        """(B, S) float waveforms at 16 kHz, (B,) samples -> ((B, T, D), (B,) frames).

        augment: no effect, there is no SpecAugment here. Raises UserError for speech of less than a frame.
        """
        return self.from_cache(*self.cacheable(speech, lengths))

    def cacheable(self, speech, lengths):
        """What a cache holds of waveforms (B, S), (B,): the frames below the layers that train, (B, T, D), (B,)."""
        counts = self.rate.batch(lengths)
        # Cloned: sums over memory that begins elsewhere round otherwise.
        cut = [self.pieces(wave[:n].clone()) for wave, n in zip(speech, lengths.tolist())]
        waves = [piece for pieces in cut for piece in pieces]
        together = self.batch == PADDED or (self.batch == AUTO and speech.is_cuda)
        found = iter(self.encoded(waves) if together else [self.encoded([w])[0] for w in waves])
        done = [torch.cat([next(found) for _ in pieces]) for pieces in cut]
        return torch.nn.utils.rnn.pad_sequence(done, True), counts


class WavLMEncoder(PretrainedEncoder):
    """WavLM (arXiv 2110.13900): raw waveform, for the published models 50 frames a second.

    Where preprocessor_config.json asks for it (`do_normalize`, the large model), each waveform gets mean 0, variance 1.
    Group norm over all frames, padding too (the base models), encodes utterances one after the other whatever `batch`.
    """

    name = "wavlm"

    def __init__(self, path, layer=LAST, batch=AUTO, weights=True, train_layers=0):
        super().__init__(path, layer, batch, weights, train_layers)
        if self.config.feat_extract_norm == "group":
            self.batch = ALONE

    def load(self, path, weights):
        from transformers import WavLMModel

        model = load(WavLMModel, path, weights)
        model.config.apply_spec_augment, model.config.layerdrop = False, 0.0
        return model

    def hidden_states(self, waves, counts):
        """Hidden states of waveforms, N of (S,), with `counts` frames each: L + 1 of (N, T, D)."""
        if self.extractor.do_normalize:
            # As transformers' feature extractor does it, on the device that the waveform is on.
            with torch.autocast(waves[0].device.type, enabled=False):
                waves = [(wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7) for wave in waves]
        inside = valid_mask(torch.tensor([len(w) for w in waves], device=waves[0].device), max(map(len, waves)))
        mask = inside if len(waves) > 1 else None
        found = self.pretrained(torch.nn.utils.rnn.pad_sequence(waves, True), mask, output_hidden_states=True)
        # By version of transformers, the last of hidden_states lies before or after the final LayerNorm.
        states = [*found.hidden_states[:-1], found.last_hidden_state]
        return states[: len(states) - self.train_layers]

    def top(self):
        encoder = self.pretrained.encoder
        # Else the LayerNorm is in front of the layers.
        return encoder.layers, encoder.layer_norm if self.config.do_stable_layer_norm else torch.nn.Identity()

    def above(self, x, lengths):
        layers, norm = self.top()
        mask = valid_mask(lengths, x.shape[1]) if len(x) > 1 else None
        # What all layers add to their attention by distance; the first one has it.
        bias = layers[0].attention.compute_bias(x.shape[1], x.shape[1]).repeat(len(x), 1, 1)
        for layer in layers[len(layers) - self.train_layers :]:
            x, bias = layer(x, attention_mask=mask, position_bias=bias)[:2]
        return norm(x)


class WhisperEncoder(PretrainedEncoder):
    """The encoder of Whisper (arXiv 2212.04356), its window as long as the utterance: a short one costs little.

    Whisper was trained on windows of 30 s, shorter speech filled up with silence. The log-mel spectrum here is the
    beginning of the one that such a window has, its highest value and so its floor included. What differs: frames do
    not attend to those of the silence, and next to the last frame the first convolution has zeros.

    longer: speech beyond the window is an error (`refuse`), or cut into windows that are encoded alone and joined
        (`windows`).
    """

    name = "whisper"

    def __init__(self, path, layer=LAST, batch=AUTO, longer="refuse", weights=True, train_layers=0):
        super().__init__(path, layer, batch, weights, train_layers)
        self.longer = check_name("encoder_conf.longer", longer, ("refuse", "windows"))

    def load(self, path, weights):
        from transformers import WhisperModel

        model = load(WhisperModel, path, weights).get_encoder()
        model.layerdrop = 0.0
        return model

    def log_mel(self, wave):
        """(S,) waveform -> (1, mels, F), two for each encoder frame."""
        extractor = self.extractor
        silence = torch.nn.functional.pad(wave, (0, extractor.n_fft)).cpu().numpy()
        device = str(wave.device)
        # In float32 also under autocast: the extractor hands its result through NumPy, which has no bfloat16.
        with torch.autocast(wave.device.type, enabled=False):
            mel = extractor(
                silence, sampling_rate=SAMPLE_RATE, padding=False, truncation=False, device=device, return_tensors="pt"
            ).input_features
        return mel[:, :, : 2 * self.rate.frames(len(wave))].to(wave.device)

    def pieces(self, wave):
        """The waveform, or its windows if it is longer. Raises UserError as `longer` says."""
        window = self.config.max_source_positions * self.rate.step
        if len(wave) > window and self.longer == "refuse":
            raise UserError(
                f"speech of {len(wave) / SAMPLE_RATE:.2f} s: {self.path} accepts {window / SAMPLE_RATE:g} s at most; "
                "leave longer utterances out (stage 4: --max_duration), cut them, or set encoder_conf.longer: windows"
            )
        return [piece for piece in wave.split(window) if self.rate.frames(len(piece)) > 0]

    def hidden_states(self, waves, counts):
        """Hidden states of waveforms, N of (S,), with `counts` frames each: L + 1 of (N, T, D)."""
        model = self.pretrained
        mel = torch.nn.utils.rnn.pad_sequence([self.log_mel(wave)[0].T for wave in waves], True).transpose(1, 2)
        lengths = torch.tensor(counts, device=mel.device)
        # The forward of transformers insists on the whole window; this is the same but for the cut table of positions,
        # and zeros beside the last frame of each.
        x = torch.nn.functional.gelu(model.conv1(mel)) * valid_mask(2 * lengths, mel.shape[2])[:, None]
        x = torch.nn.functional.gelu(model.conv2(x)).transpose(1, 2)
        x = x + model.embed_positions.weight[: x.shape[1]]
        x = torch.nn.functional.dropout(x, model.dropout, model.training)
        return self.layers(x, lengths, last=len(model.layers) - self.train_layers)

    def layers(self, x, lengths, first=0, last=None):
        """Hidden states from number `first`, which is x (N, T, D), to `last`: list of the like; that of the last layer
        of all is normalised."""
        mask, states = None, [x]
        if len(x) > 1:
            mask = torch.zeros(x.shape[:2], dtype=x.dtype, device=x.device)
            mask = mask.masked_fill(~valid_mask(lengths, x.shape[1]), torch.finfo(x.dtype).min)[:, None, None]
        for layer in self.pretrained.layers[first:last]:
            states.append(layer(states[-1], mask))
        complete = last in (None, len(self.pretrained.layers))
        return [*states[:-1], self.pretrained.layer_norm(states[-1])] if complete else states

    def top(self):
        return self.pretrained.layers, self.pretrained.layer_norm

    def above(self, x, lengths):
        return self.layers(x, lengths, len(self.pretrained.layers) - self.train_layers)[-1]


CLASSES = {cls.name: cls for cls in (WavLMEncoder, WhisperEncoder)}
