"""What was found of one thing, and how findings are printed."""

import dataclasses

OK, MISSING, BROKEN, OTHER, NOTE = "ok", "missing", "broken", "other", "note"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    group: heading under which it is printed. state: `ok`; `missing`; `broken`, there and of no use; `other`, a version
    that setup.py does not ask for; `note`, for what is told and not judged. found: version or size. remark: what it is
    for, where it is, or what is wrong. fix: the command, or else the words, that mend it. required: whether the
    installation is of no use without it.
    """

    group: str
    name: str
    state: str
    found: str = ""
    remark: str = ""
    fix: str = ""
    required: bool = False

    @property
    def fails(self):
        """Whether something required is not there."""
        return self.required and self.state in (MISSING, BROKEN)


def lines(findings):
    """A line for each finding below its heading; then what mends what is not ok, and what is to be said of it all."""
    group = None
    for finding in findings:
        if finding.group != group:
            group = finding.group
            yield group
        state = "" if finding.state == NOTE else finding.state
        yield f"  {state:8}{finding.name:22} {finding.found:13} {finding.remark}".rstrip()
    fixes = {}
    for finding in findings:
        if finding.fix and finding.state != OK:
            fixes.setdefault((finding.fix, not finding.fails), []).append(finding.name)
    for title, optional in (("to mend", False), ("if you need it", True)):
        chosen = [(fix, names) for (fix, wanted), names in fixes.items() if wanted == optional]
        if chosen:
            yield title
        for fix, names in chosen:
            yield f"  {', '.join(names)}: {fix}"
    failing = [finding.name for finding in findings if finding.fails]
    yield f"missing: {', '.join(failing)}" if failing else "nothing required is missing"


def as_json(findings, home, **facts):
    """{"ok": bool, **facts, "findings": [dict]}; `home`, the user's directory, is written as ~ in all strings."""

    def hidden(value):
        return value.replace(home, "~") if isinstance(value, str) and len(home) > 1 else value

    rows = [{key: hidden(value) for key, value in dataclasses.asdict(finding).items()} for finding in findings]
    facts = {key: hidden(value) for key, value in facts.items()}
    return {"ok": not any(finding.fails for finding in findings), **facts, "findings": rows}
