"""YAML files with their bases, and typed configs from mappings."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from espnet_llmvq.base.config import from_mapping, read_config, read_yaml
from espnet_llmvq.base.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float
    deep: bool = False


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner(0.5)
    count: int = 3
    limit: float | None = None
    form: Literal["word", "segment", 2] = "word"
    parts: tuple[str, ...] = ()
    ratio: tuple[float, float] = (1.0, 1.0)
    rest: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.count < 0:
            raise UserError(f"count is {self.count}; it must be 0 or more")


def test_values_take_the_types_of_the_fields():
    made = from_mapping(
        Outer, {"name": "x", "inner": {"rate": 2}, "limit": "1e-3", "parts": ["a"], "ratio": [1, 2], "form": 2}, "f"
    )
    assert made == Outer("x", Inner(2.0), limit=1e-3, parts=("a",), ratio=(1.0, 2.0), form=2)
    assert isinstance(made.inner.rate, float)
    assert from_mapping(Outer, {"name": "x", "limit": None}, "f").limit is None


@pytest.mark.parametrize(
    "values, words",
    [
        ([], r"f: expected keys and values, not \[\]"),
        ({}, "f: name is missing"),
        ({"nam": "x"}, "unknown key in f 'nam' .did you mean 'name'"),
        ({"name": 1}, "f: name is 1; it must be text; put quotes around it"),
        ({"name": "x", "count": True}, "f: count is True; it must be a whole number"),
        ({"name": "x", "count": 1.5}, "f: count is 1.5; it must be a whole number"),
        ({"name": "x", "count": -1}, "f: count is -1; it must be 0 or more"),
        ({"name": "x", "inner": {"rate": "fast"}}, "f: inner: rate is 'fast'; it must be a number"),
        ({"name": "x", "inner": {"rate": float("nan")}}, "f: inner: rate is nan; it must be a number"),
        ({"name": "x", "inner": {"rate": 1, "deep": 1}}, "f: inner: deep is 1; it must be true or false"),
        ({"name": "x", "inner": 3}, "f: inner: expected keys and values, not 3"),
        ({"name": "x", "form": "words"}, "unknown form in f 'words' .did you mean 'word'"),
        ({"name": "x", "form": "2"}, "f: form is '2'; it must be one of 'word', 'segment', 2"),
        ({"name": "x", "parts": "ab"}, "f: parts is 'ab'; it must be a list"),
        ({"name": "x", "parts": ["a", 2]}, r"f: parts\[1\] is 2; it must be text"),
        ({"name": "x", "ratio": [1]}, r"f: ratio is \[1\]; it must be a list of 2"),
        ({"name": "x", "rest": []}, r"f: rest is \[\]; it must be keys and values"),
    ],
)
def test_wrong_values_are_named(values, words):
    with pytest.raises(UserError, match=words):
        from_mapping(Outer, values, "f")


def test_a_base_that_leads_back(tmp_path):
    for name, base in (("start", "hard"), ("hard", "soft"), ("soft", "start")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {base}.yaml\n")
    with pytest.raises(UserError, match=r"soft.yaml: its base .*start.yaml has this file as its base"):
        read_config(str(tmp_path / "start.yaml"))


def test_base_is_merged_one_level_deep(tmp_path):
    files = {
        "common.yaml": "optim: adamw\noptim_conf: {lr: 0.1, betas: [1, 2]}\nfreeze: [llm]\nllm_conf: {lora: {r: 8}}\n",
        "sub/slam.yaml": "base: ../common.yaml\noptim_conf: {lr: 0.2}\nmax_epoch: 2\n",
        "sub/lora.yaml": "base: slam.yaml\nfreeze: []\noptim_conf: {weight_decay: 1}\n"
        "llm_conf: {lora: {lora_alpha: 4}}\n",
        "lost.yaml": "base: gone.yaml\n",
    }
    (tmp_path / "sub").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    expected = {"optim": "adamw", "optim_conf": {"lr": 0.2, "betas": [1, 2], "weight_decay": 1}, "freeze": []}
    expected |= {"max_epoch": 2, "llm_conf": {"lora": {"lora_alpha": 4}}}
    assert read_config(str(tmp_path / "sub/lora.yaml")) == expected
    with pytest.raises(UserError, match="gone.yaml does not exist"):
        read_config(str(tmp_path / "lost.yaml"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("# Größe\n".encode("latin-1"), "x.yaml is not UTF-8"),
        (b"phases: [start", r"x.yaml: (.|\n)*line 1"),
        (b"- start", "x.yaml: expected `key: value` lines"),
        (b"a: 1\nb: 2\na: 3\n", "x.yaml, line 3: 'a' is in line 1 too; keep one of them"),
        (b"deep:\n  list:\n  - {lr: 1, lr: 1}\n", "x.yaml, line 3: 'lr' is in line 3 too"),
    ],
)
def test_files_that_are_no_yaml_mapping(tmp_path, text, message):
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_yaml(str(tmp_path / "x.yaml"))


def test_what_yaml_may_hold(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(str(tmp_path / "empty.yaml")) == {}
    (tmp_path / "x.yaml").write_text("a: &a {x: 1, y: ü}\nb: {<<: *a, x: 2}\nc: [{x: 1}, {x: 1}]\n")
    assert read_yaml(str(tmp_path / "x.yaml")) == {
        "a": {"x": 1, "y": "ü"}, "b": {"x": 2, "y": "ü"}, "c": [{"x": 1}, {"x": 1}]
    }  # fmt: skip
