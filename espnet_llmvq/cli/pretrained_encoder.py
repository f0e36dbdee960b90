"""Make WavLM or Whisper the encoder of an experiment (stage 7): checked, and described in OUT/config.yaml.

Nothing is trained or copied: its weights stay where they are, and the other commands find them by that config.
"""

import os

from espnet_llmvq.cli.parser import Parser

# What the task needs to build a model that is an encoder and nothing else.
ENCODER_ONLY = {
    "model_conf": {"ctc_weight": 0.0, "start_weight": 0.0, "llm_weight": 0.0},
    "encoder_file": None, "bridge": "none", "bridge_conf": {}, "llm_conf": {}, "ctc_conf": {}, "augment_conf": {},
    "freeze": [],
}  # fmt: skip


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--pretrained_encoder", required=True, help="directory or hub id of WavLM or Whisper")
    parser.add_argument("--pretrained_layer", help="last, weighted or a number; default: that of the phases, or last")
    parser.add_argument("--systems", default="", help="systems and groups whose phases get it")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--llm", required=True, help="Hugging Face directory or hub id, for its tokenizer")
    parser.add_argument("--out", required=True, help="experiment directory of the encoder")
    return parser


def agreed(args):
    """The encoder's keys of a training config that all phases share. Raises UserError for phases that differ."""
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.phases import with_pretrained
    from espnet_llmvq.experiment.systems import plan, read_systems
    from espnet_llmvq.speech.pretrained import settings

    path, layer, found = args.pretrained_encoder, args.pretrained_layer, {}
    keys = (*settings(path), "encoder_conf")
    wanted = args.systems.split()
    for phase in plan(read_systems(read_cards(args.conf_dir), wanted)) if wanted else ():
        config = with_pretrained(phase.config, path, layer, phase.where)
        found[phase.where] = {key: config[key] for key in keys}
    if not found:
        return {key: with_pretrained({}, path, layer, "")[key] for key in keys}
    first = next(iter(found))
    for where, config in found.items():
        if config != found[first]:
            raise UserError(
                f"{first} and {where} have other encoder_conf: {found[first]['encoder_conf']} and "
                f"{config['encoder_conf']}; systems of one expdir share the encoder: give each its own --expdir"
            )
    return found[first]


def main(argv=None):
    args = get_parser().parse_args(argv)
    import torch
    import yaml

    from espnet_llmvq.base.config import read_yaml
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.espnet.run import settings_differ
    from espnet_llmvq.speech.frame_rate import described
    from espnet_llmvq.speech.pretrained import WEIGHTED

    config = {**agreed(args), **ENCODER_ONLY, "frontend_conf": {}, "normalize_conf": {}, "llm": args.llm}
    path, weights = os.path.join(args.out, "config.yaml"), os.path.join(args.out, "model.pth")
    if os.path.exists(path):
        difference = settings_differ(read_yaml(path), config)
        if difference:
            raise UserError(f"{args.out} is of another encoder ({difference}); give another --expdir, or remove it")
        if os.path.exists(weights):
            print(f"{args.out} is up to date, nothing to do")
            return
    write_text(path, yaml.safe_dump(config, sort_keys=False))
    # What a checkpoint of ours holds of such an encoder.
    rows = described(args.pretrained_encoder)[0].num_hidden_layers + 1
    weighted = config["encoder_conf"].get("layer") == WEIGHTED
    torch.save({"speech_encoder.layer_weights": torch.zeros(rows)} if weighted else {}, weights + ".tmp")
    os.replace(weights + ".tmp", weights)
    print(f"{args.out}: {config['encoder']}, {config['encoder_conf']}")
