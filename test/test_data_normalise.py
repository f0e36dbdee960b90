"""Normalisers against hand-written expectations."""

import random
import subprocess
import sys

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.normalise import NORMALISERS, get_normaliser


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  World!", "hello world"),
        ("a well-known co–op", "a well known co op"),
        ("Don’t say 'no', the dogs' rock 'n' roll", "don't say no the dogs rock n roll"),
        ("U.S. 3.5", "us 3.5"),
        ("wait…what and/or", "wait what and or"),
        ("ＦＵＬＬ ﬁne", "full fine"),  # full width, ligature
        ("Cafe\u0301", "café"),  # composed by NFKC
        ("«Größe» ¿Qué?", "größe qué"),
        ("''quoted'' \"text\"", "quoted text"),
        ("don´t o`clock", "don't o'clock"),
        ("tab\tand\nline\u00a0break", "tab and line break"),
        ("你好，世界。", "你好世界"),
        ("$5 + 3", "$5 + 3"),  # symbols are not punctuation
        (" - ' ", ""),
        ("", ""),
    ],
)
def test_basic(text, expected):
    assert get_normaliser("basic")(text) == expected


@pytest.mark.parametrize("name", ["none", "basic", "whisper_basic"])
def test_applying_twice_changes_nothing(name):
    normalise = get_normaliser(name)
    rng = random.Random(0)
    letters = "aBé'’´`-—.…,/&İßσΣ\u0301\u00ad ()﷽½你ก्"
    for _ in range(3000):
        text = "".join(rng.choices(letters, k=rng.randint(0, 12)))
        once = normalise(text)
        assert normalise(once) == once, text


def test_none_keeps_everything():
    assert get_normaliser("none")(" A, b ") == " A, b "


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Play Song (Remix) by A & B!", "play song by a b"), ("It's [noise] co-op <unk>", "it s co op")],
)
def test_whisper_basic(text, expected):
    assert get_normaliser("whisper_basic")(text) == expected


def test_whisper_english():
    normalise = get_normaliser("whisper_english")
    assert normalise("Mr. Smith can't pay twenty-five dollars") == ("mister smith can not pay $25")
    assert normalise("The colour") == "the color"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Play Song (Remix) by A & B!", "play song remix by a and b"),
        ("R&D", "r and d"),
        ("word(s) [noise]", "words"),
        ("(", ""),
    ],
)
def test_softvq_keeps_parenthesised_text(text, expected):
    assert get_normaliser("softvq")(text) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0050 12", "005-012", "zero oh five oh one two", "Double oh five, 012", "00 five O one 2"], "o o 5 o 1 2"),
        (["9803, 555", "nine eight oh three triple five", "Nine eight zero three. 5 55", "98 O3-555"], "9 8 o 3 5 5 5"),
        (["Ann Roe", "A N N  R O E", "a. n. n. r. o. e.", "A-N-N R-O-E"], "a n n r o e"),
        (["5 Oak Road 432", "five oak road, four three two"], "5 o a k r o a d 4 3 2"),
        (["1st Oak St.", "first oak saint"], "1 s t o a k s a i n t"),
        (["", " ."], ""),
    ],
)
def test_spelled_is_the_same_however_it_is_written(texts, expected):
    normalise = get_normaliser("spelled")
    assert [normalise(text) for text in texts] == [expected] * len(texts) and normalise(expected) == expected


def test_unknown_name_gives_the_nearest():
    with pytest.raises(UserError, match="did you mean 'whisper_basic'"):
        get_normaliser("whisper_bsic")


def test_no_torch():
    code = (
        "import sys; from espnet_llmvq.data.normalise import NORMALISERS, get_normaliser;"
        "assert 'whisper_normalizer' not in sys.modules;"
        "[get_normaliser(n)('a') for n in NORMALISERS]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(NORMALISERS) == {"none", "basic", "whisper_basic", "whisper_english", "softvq", "spelled"}
