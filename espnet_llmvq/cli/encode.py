"""Run the frozen encoder once over sets and keep its frames, so that many systems train on them (stage 10)."""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--encoder", required=True, help="experiment directory of the encoder")
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch, padding included")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to encode on a GPU")
    parser.add_argument(
        "--augment",
        action="store_true",
        help="spoil the speech as in the encoder's training (its augment_conf and specaug), once, by --seed",
    )
    parser.add_argument("--seed", type=int, default=1, help="of --augment")
    parser.add_argument("files", nargs="+", help="pairs SEQUENCES DIR: what to read, where frames.scp goes")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    import os
    import shutil

    import kaldiio
    import numpy as np
    import torch
    from tqdm import tqdm

    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.base.files import check_replaceable
    from espnet_llmvq.decode.batches import read_batches
    from espnet_llmvq.model.batch import Augmenter
    from espnet_llmvq.model.build import load_model

    if len(args.files) % 2:
        raise UserError("give pairs: SEQUENCES DIR")
    for target in args.files[1::2]:
        check_replaceable(target, "frames.scp")
    torch.set_num_threads(args.threads)
    device = "cuda" if args.ngpu else "cpu"
    model, model_config = load_model(args.encoder, device)
    augment = Augmenter(**model_config["augment_conf"]) if args.augment and model_config["augment_conf"] else None
    for source, target in zip(args.files[::2], args.files[1::2]):
        tmp = target.rstrip("/") + ".tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        os.makedirs(tmp)
        frames = {}
        # Draws follow the batches, which are the same for the same set.
        np.random.seed(args.seed)
        torch.manual_seed(args.seed)
        with kaldiio.WriteHelper(f"ark,scp:{tmp}/frames.ark,{tmp}/frames.scp") as writer, torch.inference_mode():
            batches = read_batches(source, args.batch_seconds, model_config["llm"], augment=augment)
            for ids, batch in tqdm(batches, desc=f"encode {source}", unit="batch"):
                out, lengths = model.speech_encoder(
                    batch["speech"].to(device), batch["speech_lengths"].to(device), args.augment
                )
                for utt, x, n in zip(ids, out.cpu(), lengths.tolist()):
                    frames[utt] = n
                    writer(utt, x[:n].numpy())
        publish(tmp, target)
        print(f"{target}: frames of {len(frames)} utterances, {sum(frames.values())} in all")


def publish(tmp, target):
    """Move a finished cache into place; its frames.scp names that place."""
    from espnet_llmvq.base.files import replace_directory, write_text

    with open(f"{tmp}/frames.scp", encoding="utf-8") as f:
        lines = f.read().replace(f"{tmp}/frames.ark:", f"{target}/frames.ark:")
    write_text(f"{tmp}/frames.scp", lines)
    replace_directory(tmp, target)
