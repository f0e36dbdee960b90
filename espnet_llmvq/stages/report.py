"""How stages say what they find."""

from espnet_llmvq.base.environment import versions

REMEDY = "remove {out} to make it again, or give another --expdir"


def tools(*packages):
    """Option of a `Made`: versions of the libraries that a result depends on."""
    return {"tools": versions(*packages)}


def up_to_date(made, redo=False):
    """Whether a cheap result need not be made; says so, or why it is made again."""
    if not redo and made.fresh():
        print(f"{made.out} is up to date, nothing to do", flush=True)
        return True
    if made.record():
        print(f"{made.out} is made again: {'asked for' if redo else made.difference()}", flush=True)
    return False


def is_there(made, remedy=REMEDY):
    """Whether a costly result is there; says so. Raises UserError, with the difference, if it was made otherwise."""
    if made.done(remedy):
        print(f"{made.out} is there, nothing to do", flush=True)
        return True
    return False
