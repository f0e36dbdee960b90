"""t-SNE of utterance means: text against the bridge output of each system, a panel a system."""

from dataclasses import dataclass

import numpy as np

from espnet_llmvq.score.table import tsv_text

PERPLEXITY = 30.0  # scikit-learn's default; less for few points
STEPS = 500  # half of scikit-learn's default: more moved nothing that can be seen, and costs the same again
LIMIT = 100  # utterances drawn: more make no clearer picture, and t-SNE is what takes longest
# {modality: (colour, mark, name)}
MODALITIES = {"text": ("#1b6ca8", "o", "text embeddings"), "speech": ("#d1495b", "^", "bridge output")}


@dataclass
class Panel:
    """One system: label, (U, 2) places of text and of speech."""

    system: str
    label: str
    text: np.ndarray
    speech: np.ndarray


def spaced(count):
    """Indices of the utterances that are drawn: at most `LIMIT` of `count`, evenly spaced."""
    return np.linspace(0, count - 1, min(count, LIMIT)).round().astype(int)


def embed(speech, text, seed):
    """(U, D), (U, D) utterance means -> two (U, 2): t-SNE of both clouds together, by cosine distance.

    The cosine, because the lengths of a continuous bridge's outputs alone would part the clouds.
    """
    from sklearn.manifold import TSNE

    points = np.concatenate([text, speech])
    found = TSNE(
        metric="cosine",
        init="pca",
        perplexity=min(PERPLEXITY, (len(points) - 1) / 3),
        max_iter=STEPS,
        random_state=seed,
    ).fit_transform(points.astype(np.float32))
    return found[len(text) :], found[: len(text)]


def tsv(panels, ids, transcripts):
    """Places as lines: system, modality, utterance, x, y, transcript."""
    lines = []
    for panel in panels:
        for modality in MODALITIES:
            for utt, text, (x, y) in zip(ids, transcripts, getattr(panel, modality)):
                lines.append((panel.system, modality, utt, f"{x:.4f}", f"{y:.4f}", " ".join(text.split())))
    return tsv_text(("system", "modality", "utterance", "x", "y", "transcript"), lines)


def draw(path, title, panels):
    """Write the panels as a PNG. Grey lines join the two points of an utterance."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3.9 * rows + 0.7), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for panel, axis in zip(panels, axes.flat):
        pairs = np.stack([panel.text, panel.speech], 1)
        axis.plot(*pairs.transpose(2, 1, 0), color="0.75", linewidth=0.4, zorder=1)
        for modality, (colour, mark, _) in MODALITIES.items():
            places = getattr(panel, modality)
            axis.scatter(*places.T, s=14, c=colour, marker=mark, alpha=0.8, linewidths=0, zorder=2)
        axis.set_title(panel.label, fontsize=10, parse_math=False)
        axis.set_xticks([])
        axis.set_yticks([])
    handles = [
        plt.Line2D([], [], color=colour, marker=mark, linestyle="", label=name)
        for colour, mark, name in MODALITIES.values()
    ]
    figure.suptitle(title, parse_math=False)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
