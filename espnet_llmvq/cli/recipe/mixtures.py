"""List the mixtures that the phases of some systems train on, as NAME|SET/FORM=SHARE ... lines, and check them."""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", required=True, help="systems and groups of conf_dir/systems.yaml")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--sets", default="train", help="sets of transcribed speech that mixtures may name")
    parser.add_argument("--texts", default="", help="plain texts that mixtures may name")
    parser.add_argument(
        "--override", action="append", default=[], help="key=value laid over every form of interleaving, repeated"
    )
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import FORMS, plan, read_interleaving, read_mixture, read_systems

    cards, wanted = read_cards(args.conf_dir), {}
    for phase in plan(read_systems(cards, args.systems.split())):
        if phase.mixture is not None:
            wanted[phase.mixture] = read_mixture(cards, phase.mixture, args.sets.split(), args.texts.split())
    for form in sorted({form for shares in wanted.values() for _, form in shares} - set(FORMS)):
        read_interleaving(cards, form, args.override)
    for name, shares in wanted.items():
        print(f"{name}|" + " ".join(f"{data}/{form}={share}" for (data, form), share in shares.items()))
