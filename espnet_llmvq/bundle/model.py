"""Write a trained system as a packed directory, and load one."""

import os
import shutil
from dataclasses import dataclass

from espnet_llmvq import __version__
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import share, write_json, write_text
from espnet_llmvq.bundle import licences
from espnet_llmvq.bundle.card import card, read_about
from espnet_llmvq.bundle.files import (
    CARD,
    CONFIG,
    ENCODER,
    FORMAT,
    LLM,
    MANIFEST,
    SPELLING,
    VERSION,
    WEIGHTS,
    check_reads_nothing,
    check_size,
    digest,
    list_files,
    replacing,
    verify,
)

# What describes the model; the rest of a config.yaml is about training.
CONFIG_KEYS = (
    "frontend", "frontend_conf", "normalize", "normalize_conf", "frame_stack", "encoder", "encoder_conf", "ctc",
    "ctc_conf", "bridge", "bridge_conf", "llm_conf", "aligned_start_conf", "model_conf", "freeze",
)  # fmt: skip
TRAINING_ONLY = {"llm_conf": ("gradient_checkpointing",), "model_conf": ("packing",)}


@dataclass(frozen=True)
class Packed:
    """A loaded system. model: `SpeechLLM` in eval mode; tokenizer: of its LLM; ctc_tokenizer: of its CTC head;
    manifest: dict."""

    model: object
    tokenizer: object
    ctc_tokenizer: object
    manifest: dict


def model_config(trained, model):
    """The keys of an experiment's config that build the model, its encoder no longer a file of its own."""
    config = {key: trained[key] for key in CONFIG_KEYS}
    for key, names in TRAINING_ONLY.items():
        config[key] = {k: v for k, v in config[key].items() if k not in names}
    frozen = ["speech_encoder"] + (["ctc"] if model.ctc is not None else [])
    config["freeze"] = [*trained["freeze"], *(frozen if trained["encoder_file"] else [])]
    return config


def pretrained_conf(config):
    """Key of a config under which the directory of a pretrained encoder stands, None if it has none."""
    from espnet_llmvq.speech.frame_rate import PRETRAINED

    return next((f"{key}_conf" for key in ("encoder", "frontend") if config[key] in PRETRAINED), None)


def packed_state(model):
    """{name: tensor} of all but the frozen tensors of the LLM, `small`, tied ones under each of their names."""
    import torch

    left_out = {name for name in model.frozen_external() if name.startswith("llm.")}
    state = torch.nn.Module.state_dict(model)
    return {n: small(v.detach()).clone().contiguous() for n, v in state.items() if n not in left_out}


def small(tensor):
    """A tensor in 16 bits if these hold each of its values exactly, as where it was published so; else as it is."""
    dtype = small_dtype([tensor])
    return tensor.to(dtype) if dtype else tensor


def small_dtype(tensors):
    """torch.float16 or torch.bfloat16, whichever holds each value of all `tensors` exactly; None if neither, or if none
    of them is float32."""
    import torch

    numbers = [tensor for tensor in tensors if tensor.is_floating_point()]
    wide = any(tensor.dtype == torch.float32 for tensor in numbers)
    for dtype in (torch.float16, torch.bfloat16) if wide else ():
        if all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in numbers):
            return dtype
    return None


def embedding_digest(llm):
    """SHA-256 of the embedding table as float32: tells one LLM from another."""
    import hashlib

    table = llm.get_input_embeddings().weight.detach().float().cpu().contiguous()
    return hashlib.sha256(table.numpy().tobytes()).hexdigest()


def longest_segment(trained, default=20.0, ratio=2.0, lowest=1.0, highest=30.0):
    """Seconds that a recording may have to be transcribed in one piece: `ratio` times the longest of training.

    `default` if the training sequences are not there.
    """
    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.sequence.sequence import read_sequences

    longest = 0
    for path, *_ in trained["train_data_path_and_name_and_type"]:
        if not os.path.exists(path):
            return default
        spans = (s.samples for seq in read_sequences(path) for s in seq.spans if s.is_speech)
        longest = max(longest, max(spans, default=0))
    return round(min(max(ratio * longest / SAMPLE_RATE, lowest), highest), 1)


def pack(
    directory,
    out,
    *,
    system,
    label,
    decode,
    search,
    llm=None,
    prompt=None,
    rows=(),
    labels=None,
    about=None,
    licence=(),
    max_mb=None,
):
    """Pack the trained model of an experiment directory into the directory `out`.

    Args:
        system, label, decode: of the `System`; decode is "llm" or "ctc".
        search: {"num_beams", "length_penalty", "ctc_weight"} that transcribing takes unless told otherwise, and
            "tokens_per_second", if not those of the training; with drafts "draft" and "draft_accept".
        llm: None: a local LLM is copied, one of the hub is named; "copy"; or the name on the hub of what is used.
        prompt: template, if the model has none recorded. rows: entries of results.json for the model card.
        labels: {system: label} of these.
        about: Markdown file for the model card. licence: licence files to put inside, beside those of LLM and encoder.
        max_mb: most MB (of 1000 kB) that the directory may have; None: any.
    Returns the manifest. Weights are stored in 16 bits where these hold them exactly. The directory is loaded once
    before it gets its name. Raises UserError.
    """
    from safetensors.torch import save_file

    from espnet_llmvq.llm.directory import load_llm, load_tokenizer
    from espnet_llmvq.llm.spelling import ROWS
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.model.positions import LEAST_RATE

    about = read_about(about)
    with replacing(out) as temporary:
        model, trained = load_model(directory)
        prompt = trained.get("prompt") or prompt
        if decode == "llm" and not prompt:
            raise UserError(f"{directory}: its prompt is not recorded; give --prompt")
        local = os.path.isdir(trained["llm"])
        copied = model.llm is None or llm == "copy" or (llm is None and local)
        named = None if copied else (llm or trained["llm"])
        config = model_config(trained, model)
        parts = {"tokenizer" if model.llm is None else "llm": trained["llm"]}
        if place := pretrained_conf(config):
            parts["encoder"] = config[place]["path"]
            encoder = model.speech_encoder
            (encoder.frontend if encoder.on_pretrained else encoder).save_description(os.path.join(temporary, ENCODER))
            config[place] = {**config[place], "path": ENCODER, "weights": False}
        check_reads_nothing({**config, place: None}, directory)
        if trained["ctc_tokens"]:
            load_tokenizer(trained["ctc_tokens"]).save_pretrained(os.path.join(temporary, SPELLING))
            shutil.copy(os.path.join(trained["ctc_tokens"], ROWS), os.path.join(temporary, SPELLING))
            config["ctc_tokens"] = SPELLING
        load_tokenizer(trained["llm"]).save_pretrained(os.path.join(temporary, LLM))
        identity = {}
        if model.llm is not None:  # of a CTC system the tokenizer is enough
            # What training began with, in its precision: the model's own table may have been trained.
            untrained = load_llm(trained["llm"], dtype=config["llm_conf"].get("dtype", "float32"))
            if named:
                identity = {"llm_sha256": embedding_digest(untrained)}
            else:
                for key in vars(untrained.config):
                    if key.endswith("name_or_path"):  # where it came from: nothing reads that
                        setattr(untrained.config, key, "")
                if dtype := small_dtype(untrained.state_dict().values()):
                    untrained.to(dtype)
                untrained.save_pretrained(os.path.join(temporary, LLM))
            del untrained  # its memory is needed to load what was packed
        state = packed_state(model)
        save_file(state, os.path.join(temporary, WEIGHTS), metadata={"format": "pt"})
        import yaml

        write_text(os.path.join(temporary, CONFIG), yaml.safe_dump(config, sort_keys=False))
        said = licences.collect(parts, licence, temporary)
        share(temporary)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "espnet_llmvq": __version__,
            "system": system,
            "label": label,
            "decode": decode,
            "search": {"tokens_per_second": trained.get("tokens_per_second", LEAST_RATE), **search},
            "max_segment": longest_segment(trained),
            "prompt": prompt if decode == "llm" else None,
            "llm": named or LLM,
            "licences": said,
            "files": {name: digest(os.path.join(temporary, name)) for name in list_files(temporary)},
            **identity,
        }
        write_text(os.path.join(temporary, CARD), card(manifest, rows, about, labels))
        manifest["card"] = digest(os.path.join(temporary, CARD))
        write_json(os.path.join(temporary, MANIFEST), manifest)
        check_size(temporary, out, max_mb)
        # A name given for a local LLM is not looked up here.
        load_packed(temporary, llm=trained["llm"] if named else None)
    return manifest


def load_packed(directory, device="cpu", llm=None):
    """Load a packed system: `Packed`. llm: in place of the LLM that the manifest names.

    Raises UserError for a directory that `verify` refuses, a config that describes no model, tensors of another
    architecture, and an LLM or tokenizer other than the one that was packed.
    """
    manifest = verify(directory)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from espnet_llmvq.base.config import read_yaml
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.build import build, check_config

    inside = os.path.join(directory, LLM)
    where = os.path.join(directory, CONFIG)
    config = read_yaml(where)
    check_config(config, where)
    missing = [key for key in CONFIG_KEYS if key not in config]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}; pack the system again")
    # Whatever paths it names, nothing outside of the directory is read.
    place = pretrained_conf(config)
    check_reads_nothing({**config, place: None}, where)
    if place:
        config[place] = {**config[place], "path": os.path.join(directory, ENCODER), "weights": False}
    spelling = os.path.join(directory, SPELLING) if config.get("ctc_tokens") else None
    source = llm or (inside if manifest["llm"] == LLM else manifest["llm"])
    if source not in (llm, inside) and os.path.lexists(source.split("/")[0]):
        raise UserError(
            f"{directory} needs the LLM {source} of the hub, in whose place {source.split('/')[0]} of the working "
            "directory would be read; go to another directory"
        )
    try:
        described = {key: config[key] for key in CONFIG_KEYS} | {"ctc_tokens": spelling}
        model = build({**described, "llm": source, "autocast": "none"})
        tokenizer = load_tokenizer(inside)
        ctc_tokenizer = load_tokenizer(spelling) if spelling else tokenizer
        if source != inside and load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
            raise UserError(f"{directory}: the LLM {source} has another tokenizer than the one packed")
    except UserError:
        raise
    except Exception as err:  # whatever the constructors and type checks of ESPnet and transformers raise
        text = str(err).strip().split("\n")[0]
        raise UserError(f"{directory}: cannot build its model ({text})") from err
    if "llm_sha256" in manifest and embedding_digest(model.llm) != manifest["llm_sha256"]:
        raise UserError(f"{directory}: {source} is not the LLM that it was trained with")
    try:
        state = load_file(os.path.join(directory, WEIGHTS))
    except (SafetensorError, OSError) as err:
        raise UserError(f"{directory}: {WEIGHTS} cannot be read ({err})") from None
    try:
        model.load_state_dict(state)
    except UserError as err:
        raise UserError(f"{directory}: {WEIGHTS}: {err}") from None
    return Packed(model.to(device).eval(), tokenizer, ctc_tokenizer, manifest)
