"""How stages say what they find."""

from espnet_llmvq.base.environment import versions

REMEDY = "remove {out} to make it again, or give another --expdir"


def tools(*packages):
    """Option of a `Made`: versions of the libraries that a result depends on."""
    return {"tools": versions(*packages)}


def ignored(experiment):
    """Options of a `Made` that are not compared: versions of tools, where the user accepts others."""
    return ("tools",) if experiment.options.accept_versions else ()


def up_to_date(made, experiment, redo=False):
    """Whether a cheap result need not be made; says so, or why it is made again."""
    why = "asked for" if redo else made.difference(ignored(experiment))
    if not why:
        print(f"{made.out} is up to date, nothing to do", flush=True)
        return True
    if made.record():
        print(f"{made.out} is made again: {why}", flush=True)
    return False


def is_there(made, experiment, remedy=REMEDY):
    """Whether a costly result is there; says so. Raises UserError, with the difference, if it was made otherwise."""
    if made.done(remedy, ignored(experiment)):
        print(f"{made.out} is there, nothing to do", flush=True)
        return True
    return False
