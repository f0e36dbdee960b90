"""List systems as NAME|LABEL|HYPOTHESES|NOTE lines, and check their names."""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", default="", help="systems and groups of conf_dir/systems.yaml; empty: all of them")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--baseline", help="must be one of those systems")
    parser.add_argument("--expdir", default="exp", help="where models and hypotheses are")
    parser.add_argument("--encoder", default="exp/encoder", help="experiment directory of the encoder")
    parser.add_argument("--no_ctc", action="store_true", help="refuse systems that need the encoder's CTC head")
    parser.add_argument("--seed", type=int, default=1, help="the seed the systems are trained with")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.errors import UserError, check_name
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import hypothesis_file, is_group, read_systems

    cards = read_cards(args.conf_dir)
    known = cards.names("systems")
    systems = read_systems(cards, args.systems.split() or known, args.seed)
    if args.baseline:
        check_name("baseline", args.baseline, [name for name in known if not is_group(cards, name)])
    for system in systems:
        if args.no_ctc and system.decode != "llm":
            raise UserError(
                f"system {system.name} decodes with the encoder's CTC head (decode: {system.decode}), which a "
                "pretrained encoder lacks; leave it out of --systems"
            )
        path = hypothesis_file(system, args.expdir, args.encoder, "{set}")
        print("|".join([system.name, system.label, path, system.note]).rstrip("|"))
