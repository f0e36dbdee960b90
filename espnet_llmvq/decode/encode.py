"""The frames of a frozen encoder, written once for a set, so that many systems train on them."""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_replaceable, write_text
from espnet_llmvq.base.made import NAME

LISTING = "frames.scp"


def frozen_part(config):
    """A pretrained encoder that is a frontend, as the keys of a config that shape the encoder name it."""
    from espnet_llmvq.speech.pretrained import CLASSES

    return CLASSES[config["frontend"]](**config["frontend_conf"]).as_frontend().eval()


def write_frames(encoder, config, waiting, threads, ngpu, batch_seconds):
    """Write what is cached of an encoder's frames for sequences to the directories of `waiting`.

    encoder: module in eval mode; config: of its training, for the tokenizer and the noise. waiting: [`Made`] with an
    input `sequences`, and options `augment`: disturb the speech as in the encoder's training (its augment_conf and
    specaug), and `seed` of the draws. batch_seconds: audio in a batch, padding included. Raises UserError for a
    directory that holds something else, and for frames that are not finite.
    """
    import kaldiio
    import numpy as np
    import torch
    from tqdm import tqdm

    from espnet_llmvq.decode.batches import read_batches
    from espnet_llmvq.model.batch import Augmenter

    torch.set_num_threads(threads)
    device = "cuda" if ngpu else "cpu"
    encoder = encoder.to(device)
    for made in waiting:
        sequences, target, augment = made.inputs["sequences"], made.out, bool(made.options.get("augment"))
        check_replaceable(target, NAME)
        conf = config["augment_conf"] if augment else None
        frames = {}
        # Draws follow the batches, which are the same for the same set.
        seed = made.options.get("seed", 1)
        np.random.seed(seed)
        torch.manual_seed(seed)
        with made.rebuilding() as building:
            ark, scp = f"{building}/frames.ark", f"{building}/{LISTING}"
            with kaldiio.WriteHelper(f"ark,scp:{ark},{scp}") as writer, torch.inference_mode():
                disturb = Augmenter(**conf) if conf else None
                batches = read_batches(sequences, batch_seconds, config["llm"], augment=disturb)
                for ids, batch in tqdm(batches, desc=f"encode {sequences}", unit="batch"):
                    speech, lengths = (batch[key].to(device) for key in ("speech", "speech_lengths"))
                    out, lengths = encoder.cacheable(speech, lengths, *([augment] if augment else []))
                    for utt, x, n in zip(ids, out.cpu(), lengths.tolist()):
                        if not x[:n].isfinite().all():
                            raise UserError(
                                f"{sequences}: {utt}: the encoder's frames are not all finite; look at its audio, "
                                "and at the encoder if that of others is alike"
                            )
                        frames[utt] = n
                        writer(utt, x[:n].numpy())
            with open(scp, encoding="utf-8") as f:
                lines = f.read().replace(f"{ark}:", f"{target}/frames.ark:")
            write_text(scp, lines)
            made.note(files=[LISTING, "frames.ark"], at=building)
        print(f"{target}: frames of {len(frames)} utterances, {sum(frames.values())} in all", flush=True)
