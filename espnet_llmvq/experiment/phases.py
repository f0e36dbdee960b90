"""Trainings of a recipe: the config of each phase as it is trained, and what it says in the terms of a paper."""

from espnet_llmvq.base.errors import UserError

CRITERION = [["valid", "loss", "min"]]
# Keys of a config that a dry run tells as they are.
DESCRIBED = (
    "model_conf", "llm_conf", "batch_type", "accum_grad", "optim", "optim_conf", "lr_scale", "scheduler",
    "scheduler_conf", "grad_clip", "max_epoch", "compile_llm",
)  # fmt: skip
HEARING = {"drop_blank": None, "merge_runs": False, "mask_frames": True}  # as `SpeechLLM` has them
BRIDGE_STACK = 5  # of a bridge whose config does not say it, as in its class


def bridge_stack(trainings):
    """Encoder frames per LLM position of all trainings of a bridge, 1 without any.

    Raises UserError for trainings that differ: batches are budgeted and sequences cut by one count of positions.
    """
    stacks = {
        t.where: (t.config.get("bridge_conf") or {}).get("stack", BRIDGE_STACK) for t in trainings if not t.is_encoder
    }
    why = "systems of one expdir share the count of their LLM positions; give each stack its own --expdir"
    return agreed(stacks, "bridge_conf.stack", why, 1)


def agreed(found, what, why, default):
    """The value that all of {where: value} have, `default` without any. Raises UserError for two that differ."""
    first = next(iter(found), None)
    for where, value in found.items():
        if value != found[first]:
            raise UserError(f"{first} has {what} {found[first]}, {where} has {value}: {why}")
    return found.get(first, default)


def hearing(trainings, mixtures):
    """What decides which steps the LLM gets of speech: keys of `model_conf`, of trainings with text as if heard.

    {} without any. Raises UserError for trainings that differ, as they would need a text of their own each.
    """
    found = {}
    for training in trainings:
        if any(source.endswith("/heard") for source in mixtures.get(training.mixture, ())):
            conf = training.config.get("model_conf") or {}
            found[training.where] = {key: conf.get(key, value) for key, value in HEARING.items()}
    why = "text as if heard is made once for all systems of an expdir; give each its own --expdir"
    return dict(agreed(found, "model_conf", why, {}))


def with_pretrained(config, path, layer, where):
    """The config of a phase with the pretrained encoder in `path`.

    where: the config, in messages. Raises UserError for keys that contradict it or need the CTC head that it lacks.
    """
    from espnet_llmvq.speech.pretrained import settings

    config = laid_over(config, settings, path, layer, where)
    model, start = config.get("model_conf") or {}, config.get("aligned_start_conf") or {}
    needs = {key: model.get(key) for key in ("ctc_weight", "drop_blank", "merge_runs")}
    needs["aligned_start_conf.targets"] = start.get("targets", "transcript") == "ctc_head"
    for key, value in needs.items():
        if value not in (None, False, 0):
            raise UserError(
                f"{where}: {key} needs a CTC head, which a pretrained encoder lacks with --ctc_head false; leave it out"
            )
    return config


def on_pretrained(config, path, layer, where):
    """The config of the encoder's training with the pretrained encoder in `path` as its frontend. As above."""
    from espnet_llmvq.speech.pretrained import as_frontend

    config = laid_over(config, as_frontend, path, layer, where)
    if config["frontend_conf"].get("layer") == "weighted":
        raise UserError(f"{where}: frontend_conf.layer weighted trains with the phases: it needs --ctc_head false")
    return config


def laid_over(config, keys, path, layer, where):
    """A config with the `keys` (function of path and layer) that follow from a pretrained encoder.

    Raises UserError for one that says otherwise.
    """
    import yaml

    config = dict(config)
    for key, value in keys(path, None if layer is None else yaml.safe_load(layer)).items():
        if isinstance(value, dict):
            inner, value = config.get(key) or {}, {**(config.get(key) or {}), **value}
            pairs = [(name, inner[name], value[name]) for name in inner]
        else:
            pairs = [(key, config.get(key, value), value)]
        for name, written, wanted in pairs:
            if written != wanted:
                raise UserError(
                    f"{where}: {name} is {written!r}, but with the pretrained encoder {path} it is {wanted!r}; "
                    "leave it out"
                )
        config[key] = value
    return config


def split_batches(config, parts, path):
    """The config with every batch cut into `parts`, whose gradients are summed: less memory, the same optimizer steps.

    Raises UserError for a number of utterances that cannot be cut so.
    """
    if parts == 1:
        return config
    if parts < 1:
        raise UserError(f"--accumulate {parts}: give the number of parts of a batch, from 1 on")
    config = {**config, "accum_grad": config.get("accum_grad", 1) * parts}
    if counts_positions(config):
        if "batch_bins" not in config:
            raise UserError(f"{path}: --accumulate {parts} needs batch_bins")
        config["batch_bins"] = -(-config["batch_bins"] // parts)
    else:
        if config.get("batch_size", 0) < parts or config["batch_size"] % parts:
            raise UserError(
                f"{path}: batch_size {config.get('batch_size')} cannot be cut into {parts} equal parts; "
                "give --accumulate a divisor of it"
            )
        config["batch_size"] //= parts
    if config.get("num_iters_per_epoch") is not None:
        config["num_iters_per_epoch"] *= parts
    return config


def counts_positions(config):
    """Whether batches are budgeted in LLM positions (`batch_bins`), not in sequences (`batch_size`)."""
    return config.get("batch_type") in ("numel", "length")


def optimizer_steps(config, batches=None):
    """Optimizer steps of a training, None if that depends on the data. batches: those of an epoch, where known.

    Batches at the end of an epoch that do not fill a step make one of their own.
    """
    batches = config.get("num_iters_per_epoch") or batches
    if batches is None or config.get("max_epoch") is None:
        return None
    return config["max_epoch"] * -(-batches // config.get("accum_grad", 1))


def with_schedule(config, path):
    """The config with what `onecyclelr` needs and other keys say: `max_lr` and `total_steps` of `scheduler_conf`.

    `max_lr` is `optim_conf.lr`, which torch's OneCycleLR does not read. Raises UserError where the config says
    otherwise: another rate, or a schedule that ends before the training, where torch would stop it.
    """
    if config.get("scheduler") != "onecyclelr":
        return config
    lr, steps = (config.get("optim_conf") or {}).get("lr"), optimizer_steps(config)
    conf = {"max_lr": lr, "total_steps": steps, **(config.get("scheduler_conf") or {})}
    if lr is not None and conf["max_lr"] != lr:
        raise UserError(
            f"{path}: scheduler_conf.max_lr is {conf['max_lr']}, but optim_conf.lr is {lr}: onecyclelr reads only the "
            "first; leave max_lr out"
        )
    if steps is not None and steps > conf["total_steps"]:
        raise UserError(
            f"{path}: scheduler_conf.total_steps is {conf['total_steps']}, but training takes {steps} optimizer steps "
            "(max_epoch x num_iters_per_epoch / accum_grad); leave it out"
        )
    for key, origin in (("max_lr", "optim_conf.lr"), ("total_steps", "num_iters_per_epoch and max_epoch")):
        if conf[key] is None:
            raise UserError(f"{path}: onecyclelr needs scheduler_conf.{key}, or {origin} that it follows from")
    return {**config, "scheduler_conf": conf}


def with_defaults(config, defaults):
    """A config with all keys. defaults: of ESPnet; keyword arguments of a class it would choose are not another's."""
    kept = {k: {} if k.endswith("_conf") and k[:-5] in config else v for k, v in defaults.items()}
    return {**kept, **config}


def trained_parts(training):
    """(parts that train, parts that are frozen) as words; parts that the phase does not run are in neither."""
    import re

    from espnet_llmvq.speech.frame_rate import is_frontend

    config = training.config
    weights = {"ctc_weight": 0.0, "start_weight": 0.0, "llm_weight": 1.0, **(config.get("model_conf") or {})}
    freeze = config.get("freeze") or []
    trains, frozen = [], []

    def part(name, prefix, on=True):
        fixed = any(re.match(pattern, prefix) for pattern in freeze)
        (trains if on and not fixed else frozen).append(name)

    if is_frontend(config):
        layers = (config.get("frontend_conf") or {}).get("train_layers", 0)
        frozen.append("pretrained encoder" + f" but for {layers} layers" * bool(layers))
    part("encoder", "speech_encoder.", training.is_encoder or config.get("train_encoder", False))
    if (config.get("encoder_conf") or {}).get("layer") == "weighted":
        part("weights of its layers", "speech_encoder.layer_weights")
    if config.get("ctc", True):
        part("CTC head", "ctc.", training.is_encoder)
    if not (weights["llm_weight"] or weights["start_weight"]):
        return trains, frozen
    part("projector", "bridge.projector")
    if config.get("bridge", "none") != "none":
        part("codebook", "bridge.codebook", (config.get("bridge_conf") or {}).get("codebook") == "trainable")
    if weights["llm_weight"]:
        lora = (config.get("llm_conf") or {}).get("lora")
        part("LLM", "llm.", not lora)
        if lora:
            part("LoRA", "llm.lora_")
    return trains, frozen


def describe(training, defaults, gpus=1, batches=None):
    """What a training amounts to, as a dict for JSON.

    defaults: of keys that the config lacks (ESPnet's). gpus: among which each batch is shared; its size stays.
    batches: of an epoch, where known and the config does not say.
    """
    config = with_defaults(training.config, defaults)
    unit = "batch_bins" if counts_positions(config) else "batch_size"
    trains, frozen = trained_parts(training)
    return {
        **{key: config[key] for key in DESCRIBED},
        "phase": training.tag,
        "config": training.where,
        "parent": training.parent or None,
        "mixture": training.mixture or None,
        "share": training.share,
        "bridge": None if training.is_encoder else config["bridge"],
        "bridge_conf": {} if training.is_encoder else config["bridge_conf"],
        "trains": trains,
        "frozen": frozen,
        "unit": "LLM positions" if unit == "batch_bins" else "sequences",
        "batch": config[unit],
        "effective_batch": config[unit] * config["accum_grad"],
        "gpus": gpus,
        "batches_per_epoch": config["num_iters_per_epoch"] or batches,
        "steps": optimizer_steps(config, batches),
    }


def show(facts):
    """The lines in which `describe` is printed."""

    def pairs(conf):
        return " ".join(f"{key}={value}" for key, value in (conf or {}).items())

    batch = f"{facts['batch']} {facts['unit']}"
    if facts["accum_grad"] > 1:
        batch += f" x {facts['accum_grad']} (accum_grad) = {facts['effective_batch']}"
    if facts["gpus"] > 1:
        batch += f", shared by {facts['gpus']} GPUs"
    epochs, batches, steps = facts["max_epoch"], facts["batches_per_epoch"], facts["steps"]
    length = f"{epochs} epochs of {batches or 'all'} batches"
    length += f" = {steps} optimizer steps" if steps is not None else "; steps depend on the data"
    yield f"{facts['phase']}: {facts['config']}" + (f", after {facts['parent']}" if facts["parent"] else "")
    data = f"mixture {facts['mixture']}" if facts["mixture"] else " and ".join(["training set", *facts.get("also", ())])
    yield f"  data       {data}" + (f", {100 * facts['share']:g} % of it" if facts["share"] < 1 else "")
    yield f"  trains     {', '.join(facts['trains']) or 'nothing'}"
    yield f"  frozen     {', '.join(facts['frozen']) or 'nothing'}"
    if facts["bridge"]:
        yield f"  bridge     {facts['bridge']} {pairs(facts['bridge_conf'])}".rstrip()
    yield f"  batch      {batch} ({facts['batch_type']})"
    yield f"  length     {length}"
    yield f"  optimizer  {facts['optim']} {pairs(facts['optim_conf'])}, gradient norm up to {facts['grad_clip']}"
    if facts["lr_scale"]:
        yield f"  rates      {', '.join(f'lr x {factor:g} for {name}' for name, factor in facts['lr_scale'].items())}"
    yield f"  scheduler  {facts['scheduler'] or 'none'} {pairs(facts['scheduler_conf'])}".rstrip()
