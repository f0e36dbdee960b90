"""The error users see, what it says of a full disk, and the nearest valid name for a mistyped one."""

import contextlib
import difflib
import errno
import re
import sys

# A full disk, a used up quota, a file that may not grow further.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A directory or a file of the user's that is not as it must be; a file that is not there can be our mistake.
_ACCESS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
# Libraries that write in C or Rust put the number into their text, or lose it: safetensors, torch, NumPy.
_FULL_TEXT = re.compile(
    rf"os error ({'|'.join(map(str, _FULL))})\b|inline_container.*unexpected pos|PytorchStreamWriter failed writing"
    r"|\d+ requested and \d+ written"
)

# Modules that `pip install espnet_llmvq` leaves to an extra, [train] but for those of EXTRAS.
EXTRAS = {"gguf": "models", "starlette": "demo", "uvicorn": "demo"}
EXTRA = {
    *EXTRAS, "torch", "torchaudio", "espnet", "espnet2", "transformers", "peft", "sentencepiece", "safetensors",
    "tokenizers", "huggingface_hub", "librosa", "sklearn", "matplotlib", "tensorboard",
}  # fmt: skip


class UserError(Exception):
    """A mistake in the user's input. Commands print its message without a traceback and exit 1."""


def message_of(err):
    """The message of an exception for the user: of a UserError, a full disk, a path that cannot be used; None if it is
    a bug.
    """
    if isinstance(err, UserError):
        return str(err)
    if isinstance(err, OSError) and err.filename is not None and err.errno in _ACCESS:
        name = err.filename2 if err.filename2 is not None else err.filename
        return f"{name}: cannot be used: {err.strerror} (give another path, or change this one)"
    cause = err
    while cause is not None:
        if getattr(cause, "errno", None) in _FULL or _FULL_TEXT.search(str(cause)):
            return f"a file cannot be written ({cause}): free some disk space and run again; finished work is kept"
        cause = cause.__cause__ or cause.__context__
    return None


def exit_with(err):
    """End this process with the line of an exception for the user; raise what is a bug."""
    message = message_of(err)
    if message is None:
        raise err
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


@contextlib.contextmanager
def naming_extra():
    """In a `with`: turn the lack of a library that an extra brings into a UserError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as err:
        missing = (err.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        extra = EXTRAS.get(missing, "train")
        raise UserError(
            f"this needs {missing}, which is not installed: pip install 'espnet_llmvq[{extra}]' (docs/install.md)"
        ) from err


# Remedy for what comes from a hub.
DOWNLOAD = "download it again; else see if there is a network and a model of that name, or give a local directory"


@contextlib.contextmanager
def reading(path, remedy):
    """In a `with` that reads a file that was made here: turn what a damaged one causes into a UserError.

    `remedy` says how to get another one. What the machine causes (a disk, memory, a limit) stays what it is.
    """
    try:
        yield
    except Exception as err:
        parser = type(err).__module__.split(".")[0] in ("yaml", "safetensors", "safetensors_rust", "_pickle")
        content = isinstance(err, (ValueError, LookupError, TypeError, EOFError)) or (
            isinstance(err, OSError) and err.errno is None  # transformers'
        )
        if not (parser or content) or message_of(err):
            raise
        first = (str(err).strip().splitlines() or ["no reason given"])[0]
        raise UserError(f"{path}: cannot be read ({type(err).__name__}: {first}); if damaged, {remedy}") from err


def nearest(name, choices):
    """A hint such as " (did you mean 'soft'?)", or "" when nothing is close."""
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_name(kind, name, choices):
    """`name` if it is one of `choices`; otherwise raise UserError naming the nearest one."""
    if name not in choices:
        known = sorted(map(str, choices))
        # A long list would bury the hint.
        listed = f"; known: {', '.join(known)}" if len(known) <= 20 else ""
        raise UserError(f"unknown {kind} {name!r}{nearest(name, choices)}{listed}")
    return name
