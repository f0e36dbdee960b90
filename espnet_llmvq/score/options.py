"""Options of the scoring commands as objects: how numbers are estimated, and what is done with bad input."""

from dataclasses import dataclass, field

from espnet_llmvq.base.config import option
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.score.derail import AuditRules
from espnet_llmvq.score.files import Rules


@dataclass(frozen=True)
class Statistics:
    """Bootstrap and tests. Raises UserError for impossible values."""

    resample: str = option("utterance", "what is drawn", ("utterance", "speaker"))
    replicates: int = option(1000, "bootstrap replicates")
    permutations: int = option(10000, "exchanges of the paired test")
    confidence: float = option(0.95, "of intervals; level of tests")
    draw_seed: int = option(1, "of bootstrap and test")

    def __post_init__(self):
        check_name("value of --resample", self.resample, ("utterance", "speaker"))
        for name in ("replicates", "permutations"):
            if getattr(self, name) < 100:
                raise UserError(f"--{name} {getattr(self, name)}: give at least 100")
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"--confidence {self.confidence:g}: give a share such as 0.95")
        if self.draw_seed < 0:
            raise UserError(f"--draw_seed {self.draw_seed}: give 0 or more")

    def __str__(self):
        """How intervals and p-values were made."""
        return (
            f"intervals: {100 * self.confidence:g} %, BCa bootstrap of {self.replicates} replicates; "
            f"p: {self.permutations} random exchanges of the two systems, two-sided, corrected by Holm; "
            f"seed {self.draw_seed}"
        )


@dataclass(frozen=True)
class Options:
    """All that scoring can be asked for."""

    statistics: Statistics = field(default_factory=Statistics)
    rules: Rules = field(default_factory=Rules)
    audit: AuditRules = field(default_factory=AuditRules)
    prompt: str = option("", "template of the prompt, to find its text in hypotheses")
    voice: str = option(
        "en-us",
        "of espeak-ng, whose phonemes say which words sound alike; letters: their letters, as without espeak-ng",
    )
