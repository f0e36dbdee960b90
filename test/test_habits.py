"""Files that hosts and tools read: citation, issue forms, pre-commit; they agree with the package and the Makefile."""

import re
import shutil
import subprocess

import pytest
import yaml
from test_install import ROOT, constraints

import espnet_llmvq


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_citation():
    """The version is the package's, and the papers are those of docs/methods.md."""
    found = read("CITATION.cff")
    assert found["cff-version"] == "1.2.0" and found["type"] == "software"
    assert (found["title"], found["version"]) == ("espnet_llmvq", espnet_llmvq.__version__)
    assert found["license"] == "Apache-2.0" and found["message"] and found["authors"]
    methods = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    papers = re.findall(r"@article\{.*?\n    \}", methods, re.DOTALL)
    assert len(papers) == len(found["references"]) == 2
    for text, paper in zip(papers, found["references"]):
        field = dict(re.findall(r"(\w+)\s*=\s*\{(.*?)\}", text, re.DOTALL))
        assert " ".join(field["title"].split()) == paper["title"]
        assert (field["journal"], int(field["year"])) == (paper["journal"], paper["year"])
        assert field["author"].startswith(paper["authors"][0]["family-names"])


# What GitHub's form schema allows of each kind.
ATTRIBUTES = {
    "markdown": {"value"},
    "textarea": {"label", "description", "placeholder", "value", "render"},
    "input": {"label", "description", "placeholder", "value"},
}


@pytest.mark.parametrize("name", ["bug", "question"])
def test_issue_forms(name):
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert set(form) <= {"name", "description", "title", "labels", "assignees", "body"}
    assert form["name"] and form["description"]
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids)) >= 2
    for part in form["body"]:
        assert set(part) <= {"type", "id", "attributes", "validations"}
        assert set(part["attributes"]) <= ATTRIBUTES[part["type"]]
        assert part["attributes"].get("label" if part["type"] != "markdown" else "value")
        assert set(part.get("validations", {})) <= {"required"}
    doctor = next(part for part in form["body"] if part.get("id") == "doctor")
    assert doctor["attributes"]["label"] == "`llmvq doctor --json`"
    assert doctor.get("validations", {}).get("required", False) == (name == "bug")


def hooks():
    return {hook["id"]: hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}


def test_hooks_have_the_versions_of_the_constraints():
    pins = {f"{name}=={version}" for name, version, _ in constraints()}
    asked = [pin for hook in hooks().values() for pin in hook["additional_dependencies"]]
    assert len(asked) == 3 and set(asked) <= pins


def test_hooks_run_what_make_lint_runs():
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint: env\n")[2].partition("\n\n")[0]
    found = hooks()
    for name in ("check", "format --check"):
        entry = found["ruff-" + name.split()[0]]["entry"]
        assert entry == f"ruff {name} --force-exclude" and f"python -m ruff {name} .\n" in lint
    assert re.search(r"xargs -0 --no-run-if-empty (shellcheck .*)", lint)[1] == found["shellcheck"]["entry"]


def test_hooks_look_at_the_same_scripts():
    """Of all files of the repository, links left out as `find -type f` does."""
    git = shutil.which("git") and subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if not git or git.returncode:
        pytest.skip("no git checkout")
    files = [name for name in git.stdout.splitlines() if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    pattern = re.compile(hooks()["shellcheck"]["files"])
    made = {"venv", "oldest", "data", "dump", "exp", "downloads"}  # directories that `make lint` leaves out
    expected = [
        name for name in files if (name.endswith(".sh") or name.startswith(".ci/")) and not made & set(name.split("/"))
    ]
    assert [name for name in files if pattern.search(name)] == expected != []
