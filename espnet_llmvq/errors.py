"""The error users see, and the nearest valid name for a mistyped one."""

import difflib


class UserError(Exception):
    """A mistake in the user's input. Commands print its message without a traceback and exit 1."""


def nearest(name, choices):
    """Return a hint such as " (did you mean 'soft'?)", or "" when nothing is close."""
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_name(kind, name, choices):
    """Return `name` if it is one of `choices`; otherwise raise UserError naming the nearest one."""
    if name not in choices:
        known = sorted(map(str, choices))
        # A long list would bury the hint.
        listed = f"; known: {', '.join(known)}" if len(known) <= 20 else ""
        raise UserError(f"unknown {kind} {name!r}{nearest(name, choices)}{listed}")
    return name
