"""Typed configs from mappings."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from espnet_llmvq.base.config import from_mapping
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
