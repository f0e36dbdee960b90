"""The model card of a packed system: README.md with the metadata of the Hugging Face hub."""

from espnet_llmvq.bundle.files import LLM


def tables(rows):
    """Markdown of the results of one system: a table of each error rate in `rows` of results.json."""
    from espnet_llmvq.score.results import Results
    from espnet_llmvq.score.rows import said_of
    from espnet_llmvq.score.table import markdown_table

    results = Results(rows)
    tables = [results.metric_table(metric) for metric in ("wer", "cer") if results.has(metric)]
    texts = [f"{table.title}, with intervals ({said_of(rows)}):\n\n{markdown_table(table)}" for table in tables]
    return "\n".join(texts)


def card(manifest, rows=()):
    """Text of README.md. rows: entries of results.json; those of other systems are left out."""
    from huggingface_hub import ModelCardData

    own = [row for row in rows if row["system"] == manifest["system"]]
    named = manifest["llm"] != LLM
    data = ModelCardData(
        library_name="espnet_llmvq",
        pipeline_tag="automatic-speech-recognition",
        tags=["espnet", "speech-llm"],
        base_model=manifest["llm"] if named else None,
    )
    search = manifest["search"]
    if manifest["decode"] == "ctc":
        parts, how = "encoder and CTC head", "greedy CTC"
    else:
        llm = f"`{manifest['llm']}`, downloaded when the system is loaded" if named else "inside"
        parts = "encoder, bridge and what was trained of the LLM"
        how = (
            f"beam {search['num_beams']}, CTC weight {search['ctc_weight']:g}, draft {search.get('draft', 'none')}, "
            f"prompt `{manifest['prompt']}`. "
            f"The LLM: {llm}"
        )
    results = tables(own) or "This system was packed without results.\n"
    return f"""---
{data.to_yaml()}
---

# {manifest["label"]}

A speech recognizer, the system `{manifest["system"]}` of an espnet_llmvq recipe: {parts} in
`model.safetensors`, tokenizer in `llm/`. Decoding: {how}.

## Use

    llmvq transcribe DIR audio.wav

    from espnet_llmvq import Recogniser

    print(Recogniser("DIR")("audio.wav").text)

DIR is this directory. Files other than this one are checked against `manifest.json`.

## Results

{results}"""
