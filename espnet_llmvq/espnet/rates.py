"""Learning rates of parts of a model: `lr_scale`, a factor for each."""

import re

from espnet_llmvq.base.errors import UserError

# They give all parameters one rate, whatever that of their group is.
ONE_RATE = ("piecewiselinearwarmuplr", "cycliclr", "cosineannealingwarmuprestarts", "exponentialdecaywarmup")


def check_scale(config, where="config"):
    """Raise UserError unless `lr_scale` maps names to positive numbers, and the other keys let it act."""
    scale = config.get("lr_scale") or {}
    if not isinstance(scale, dict):
        raise UserError(f"{where}: lr_scale is {scale!r}; it must be names with factors, such as {{bridge: 0.1}}")
    for pattern, factor in scale.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError):
            raise UserError(f"{where}: lr_scale: {pattern!r} is no regular expression") from None
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
            raise UserError(
                f"{where}: lr_scale.{pattern} is {factor!r}; it must be a number above 0 (freeze is for parts that do "
                "not train)"
            )
    for key in ("exclude_weight_decay", "sharded_ddp", "use_deepspeed") if scale else ():
        if config.get(key):
            raise UserError(f"{where}: lr_scale and {key} do not go together; leave one out")
    if scale and config.get("scheduler") in ONE_RATE:
        raise UserError(
            f"{where}: lr_scale has no effect with scheduler {config['scheduler']}, which gives all parameters one "
            "rate; take another, such as warmuplr or onecyclelr"
        )
    if scale and "lr" not in (config.get("optim_conf") or {}):
        raise UserError(f"{where}: lr_scale needs optim_conf.lr, the rate that it multiplies")


def parameter_groups(named, scale):
    """Parameters by their factor, in order: [(factor, parameters)], of those that train.

    named: (name, parameter) pairs. scale: {regular expression: factor}; a name belongs to the longest expression
    that matches it from its start, and to factor 1 without any. Raises UserError for one that matches nothing.
    """
    groups, unused = {}, set(scale)
    for name, p in named:
        matching = [pattern for pattern in scale if re.match(pattern, name)]
        unused -= set(matching)
        if p.requires_grad:
            groups.setdefault(scale[max(matching, key=len)] if matching else 1, []).append(p)
    if unused:
        raise UserError(f"lr_scale: {min(unused)!r} matches no parameter")
    return sorted(groups.items(), key=lambda group: -group[0])


def scaled(args, model):
    """(groups, scheduler_conf): what torch's optimizer and scheduler take for `args.lr_scale`.

    Each group has its own highest rate; onecyclelr takes these as a list, other schedulers go by that of the group.
    """
    groups, conf = parameter_groups(model.named_parameters(), args.lr_scale), dict(args.scheduler_conf)
    lr = args.optim_conf["lr"]
    if args.scheduler == "onecyclelr":
        conf["max_lr"] = [conf["max_lr"] * factor for factor, _ in groups]
    return [{"params": params, "lr": lr * factor} for factor, params in groups], conf
