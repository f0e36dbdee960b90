"""The frames of a frozen encoder, written once for a set, so that many systems train on them."""

import os
import shutil

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import replace_directory, write_text
from espnet_llmvq.base.made import record_file

LISTING = "frames.scp"


class Encoding:
    """A loaded encoder that writes frames.

    encoder: its experiment directory. batch_seconds: audio in a batch, padding included.
    """

    def __init__(self, encoder, threads=1, ngpu=0, batch_seconds=120.0):
        import torch

        from espnet_llmvq.model.build import load_model

        torch.set_num_threads(threads)
        self.device, self.batch_seconds = "cuda" if ngpu else "cpu", batch_seconds
        self.model, self.config = load_model(encoder, self.device)

    def write(self, sequences, target, made, augment=False, seed=1):
        """Write the frames of a file of sequences to the directory `target`, and `made` (`Made`) in it.

        augment: disturb the speech as in the encoder's training (its augment_conf and specaug), drawn by `seed`.
        Raises UserError for a directory that holds something else.
        """
        import kaldiio
        import numpy as np
        import torch
        from tqdm import tqdm

        from espnet_llmvq.decode.batches import read_batches
        from espnet_llmvq.model.batch import Augmenter

        if os.path.isdir(target) and os.listdir(target) and not record_file(target).exists():
            raise UserError(f"{target} holds files that were not made here; remove it or name another --expdir")
        conf = self.config["augment_conf"] if augment else None
        building = f"{target.rstrip('/')}.tmp"
        shutil.rmtree(building, ignore_errors=True)
        os.makedirs(building)
        frames, ark, scp = {}, f"{building}/frames.ark", f"{building}/{LISTING}"
        # Draws follow the batches, which are the same for the same set.
        np.random.seed(seed)
        torch.manual_seed(seed)
        with kaldiio.WriteHelper(f"ark,scp:{ark},{scp}") as writer, torch.inference_mode():
            disturb = Augmenter(**conf) if conf else None
            batches = read_batches(sequences, self.batch_seconds, self.config["llm"], augment=disturb)
            for ids, batch in tqdm(batches, desc=f"encode {sequences}", unit="batch"):
                speech, lengths = (batch[key].to(self.device) for key in ("speech", "speech_lengths"))
                out, lengths = self.model.speech_encoder(speech, lengths, bool(augment))
                for utt, x, n in zip(ids, out.cpu(), lengths.tolist()):
                    frames[utt] = n
                    writer(utt, x[:n].numpy())
        with open(scp, encoding="utf-8") as f:
            lines = f.read().replace(f"{ark}:", f"{target}/frames.ark:")
        write_text(scp, lines)
        made.note(files=[LISTING, "frames.ark"], at=building)
        replace_directory(building, target)
        print(f"{target}: frames of {len(frames)} utterances, {sum(frames.values())} in all", flush=True)
