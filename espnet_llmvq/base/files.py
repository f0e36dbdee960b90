"""Writing in one step, and what a command may replace."""

import contextlib
import os
import shutil
from pathlib import Path

from espnet_llmvq.base.errors import UserError


def write_text(path, text):
    """Write `text` as UTF-8 to `path` in one step, making the directory if needed."""
    with writing(path, f"{os.getpid()}.tmp") as f:
        f.write(text)


@contextlib.contextmanager
def writing(path, suffix="tmp"):
    """A file open for UTF-8 text, in a `with`: it becomes `path` at the end, or vanishes after an error.

    What a killed process leaves is written over by the next one. suffix: of the temporary name; where several
    processes may write `path` at once, one of each.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{suffix}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as f:
            yield f
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(directory, record):
    """Raise UserError if `directory` holds files but no `record`: it is not one that the command made before.

    Also if it is a symbolic link: what is written beside it might be on another disk than what it leads to.
    """
    directory = Path(directory)
    if directory.is_symlink():
        raise UserError(f"{directory} would be replaced, but is a link; name the directory itself, or link its parent")
    if not directory.exists() or (directory / record).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise UserError(
            f"{directory} would be replaced, but holds other files and no {record}; remove it or name another"
        )


def replace_directory(new, target):
    """Put the finished directory `new` in the place of `target`, which is there or not; never a part of either."""
    target = Path(target)
    old = target.with_name(f".{target.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def check_path(path, needed="config.json", what="LLM", remedy="give --llm PATH or run stages 5 and 6"):
    """Return whether `path` is local; raise UserError for a local path without the file `needed`."""
    if os.path.isdir(path):
        if not os.path.exists(os.path.join(path, needed)):
            raise UserError(f"{what} directory {path} has no {needed}; is it a Hugging Face model?")
        return True
    # A hub id is `owner/name` or `name`; a path whose first folder exists is a path.
    first = path.split("/")[0]
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or os.path.isdir(first):
        raise UserError(f"{what} directory {path} does not exist; {remedy}")
    return False
