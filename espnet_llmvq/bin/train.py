"""Train phases with ESPnet's trainer: the encoder (stage 7), or all phases of some systems (stage 11)."""

import os

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.errors import UserError


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--config", help="one training config (e.g. conf/encoder.yaml)")
    parser.add_argument("--tag", help="directory name under expdir for --config")
    parser.add_argument("--systems", default="", help="systems and groups under conf_dir/systems")
    parser.add_argument("--conf_dir", default="conf", help="holds systems/ and phases/")
    parser.add_argument("--expdir", default="exp", help="where models go")
    parser.add_argument("--llm", required=True, help="Hugging Face directory or hub id")
    parser.add_argument("--encoder_file", help="checkpoint of the frozen encoder")
    parser.add_argument("--pretrained_encoder", help="directory or hub id of WavLM or Whisper, for all phases")
    parser.add_argument("--pretrained_layer", help="last, weighted or a number; default: that of the phases, or last")
    parser.add_argument("--train", required=True, help="sequences to train on, of phases without a mixture")
    parser.add_argument("--mixture_dir", default="exp/mixtures", help="NAME.jsonl and NAME_shape of mixtures of phases")
    parser.add_argument("--valid", required=True, help="sequences of the validation set")
    parser.add_argument("--train_shape", required=True, help="LLM positions of each training sequence")
    parser.add_argument("--valid_shape", required=True, help="LLM positions of each validation sequence")
    parser.add_argument("--train_cache", help="encoder frames of the training set (scp)")
    parser.add_argument("--valid_cache", help="encoder frames of the validation set (scp)")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--nj", type=int, default=1, help="phases trained at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs; phases then train one at a time")
    parser.add_argument(
        "--override", action="append", default=[], help="key=value laid over every config, repeated"
    )
    parser.add_argument("--check", action="store_true", help="only check names and keys, read no data")
    return parser


def check_kept_rows(configs, llm):
    """Raise UserError for a top_k above the vocabulary now, not when its phase has its turn.

    configs: {path: config}. The LLM is opened only if one of them has a quantizer.
    """
    from espnet_llmvq.bridge.bridge import check_top_k
    from espnet_llmvq.llm.directory import table_rows

    kept = {p: c.get("bridge_conf", {}).get("top_k") for p, c in configs.items()}
    kept = {path: top_k for path, top_k in kept.items() if top_k is not None}
    rows = table_rows(llm) if kept else None
    for path, top_k in kept.items():
        try:
            check_top_k(top_k, rows)
        except UserError as err:
            raise UserError(f"{path}: {err}") from None


def with_pretrained(config, path, layer, where):
    """The config of a phase with the pretrained encoder in `path`.

    where: the config's file. Raises UserError for keys that contradict it or need the CTC head that it lacks.
    """
    import yaml

    from espnet_llmvq.pretrained_encoder import settings

    given = settings(path, None if layer is None else yaml.safe_load(layer))
    conf = {**config.get("encoder_conf", {}), **given.pop("encoder_conf")}
    written = {**config.get("encoder_conf", {}), **config}
    for key, value in {**given, **conf}.items():
        if key in written and written[key] != value:
            raise UserError(
                f"{where}: {key} is {written[key]!r}, but with the pretrained encoder {path} it is {value!r}; "
                "leave it out"
            )
    model, start = config.get("model_conf", {}), config.get("aligned_start_conf", {})
    needs = {key: model.get(key) for key in ("ctc_weight", "drop_blank", "merge_runs")}
    needs["aligned_start_conf.targets"] = start.get("targets", "transcript") == "ctc_head"
    for key, value in needs.items():
        if value not in (None, False, 0):
            raise UserError(f"{where}: {key} needs a CTC head, which a pretrained encoder lacks; leave it out")
    return {**config, **given, "encoder_conf": conf}


def data_settings(args, mixture, changes_frames):
    """What a phase reads: settings of its sequences, their positions and cached encoder frames.

    Cached frames are those of the frozen encoder, and of the plain transcribed speech of the training set.
    """
    train, shape, cache = args.train, args.train_shape, args.train_cache
    if mixture is not None:
        train, shape = (os.path.join(args.mixture_dir, mixture + end) for end in (".jsonl", "_shape"))
    return {
        "train_data_path_and_name_and_type": [[train, "sequence", "sequence"]],
        "valid_data_path_and_name_and_type": [[args.valid, "sequence", "sequence"]],
        "train_shape_file": [shape],
        "valid_shape_file": [args.valid_shape],
        "train_cache": None if changes_frames or mixture is not None else cache,
        "valid_cache": None if changes_frames else args.valid_cache,
    }


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.pretrained_encoder import changes_frames
    from espnet_llmvq.systems import Phase, plan, read_config, read_systems, split_mixture
    from espnet_llmvq.tasks.launch import is_done, run_phases

    phases = plan(read_systems(args.conf_dir, args.systems.split(), args.seed))
    if args.config:
        tag = args.tag or os.path.splitext(os.path.basename(args.config))[0]
        phases.append(Phase(tag, args.config, None))
    if not phases:
        if not args.systems.split():
            raise UserError("nothing to train: give --config or --systems")
        print("the systems have no phases, nothing to train")
        return
    import yaml

    overrides = dict(pair.partition("=")[::2] for pair in args.override)
    overrides = {key: yaml.safe_load(value) for key, value in overrides.items()}
    jobs = []
    for phase in phases:
        config, mixture = split_mixture(read_config(phase.config), phase.config, args.conf_dir)
        config.update(overrides)
        if args.pretrained_encoder:
            config = with_pretrained(config, args.pretrained_encoder, args.pretrained_layer, phase.config)
        config.setdefault("best_model_criterion", [["valid", "loss", "min"]])
        settings = {
            **config,
            "llm": args.llm,
            "encoder_file": args.encoder_file,
            "init_from": os.path.join(args.expdir, phase.parent, "model.pth") if phase.parent else None,
            **data_settings(args, mixture, changes_frames(config, args.encoder_file)),
            "seed": args.seed,
            "ngpu": args.ngpu,
        }
        jobs.append((phase.tag, phase.parent, os.path.join(args.expdir, phase.tag), settings, config))
    if args.check or not all(is_done(directory, s) for _, _, directory, s, _ in jobs):
        from espnet_llmvq.tasks.speech_llm import SpeechLLMTask

        for (_, _, _, _, config), phase in zip(jobs, phases):
            SpeechLLMTask.check_config(config, phase.config)
        if not args.check:
            check_kept_rows({phase.config: config for (*_, config), phase in zip(jobs, phases)}, args.llm)
    if args.check:
        return
    run_phases([job[:4] for job in jobs], 1 if args.ngpu else args.nj, args.threads)


if __name__ == "__main__":
    run(main)
