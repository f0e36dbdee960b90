"""A training of an experiment."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """A phase as it is trained.

    tag: its directory in EXPDIR; parent: tag of the phase before, "" for none. where: what messages call its config.
    config: with bases merged and overrides laid over it. mixture: what it trains on, "" for the transcribed speech of
    the training set; share: of that set then. is_encoder: the training of the speech encoder, before all others.
    """

    tag: str
    where: str
    config: dict
    parent: str = ""
    mixture: str = ""
    is_encoder: bool = False
    share: float = 1.0
