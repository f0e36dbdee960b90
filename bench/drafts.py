"""The LLM's part of decoding with drafts, against plain greedy search of the same code and against transformers' own.

In the directory of a recipe that has run to stage 11. Encoder, bridge and CTC head run once, before anything is timed;
then, for each batch size, over the same prompts:

- plain: the search of stage 12 with a beam of 1;
- exact: with what the CTC head wrote as drafts. A text that differs from plain's is told with how far apart the two
  tokens are at which they part, in nats: floating point decides what is nearly a tie;
- guided: tokens of a draft stand that are `--draft_accept` times as probable as the best one;
- transformers, lookup: its `generate` on the same inputs, without scores, and with its prompt lookup (batch size 1).

`curve` is of batch size 1, with drafts made of plain's own texts in which a share of the tokens was replaced by random
ones: how fast the search is by how much of a draft is right. Runs are repeated in alternating order; `seconds` and
`cpu_seconds` are minimum, median and maximum, `ratio` and `cpu_ratio` plain's median by the other's. On a machine that
others use too, CPU seconds say more. `accepted` is the share of tokens, the end included, that drafts had right.

`python bench/drafts.py --json FILE`. On two idle cores about ten minutes.
"""

import json
import os
import random
import statistics
import time

from decode import batches, clock, device, error_rate, load, recipe_parser

from espnet_llmvq.base.files import write_text

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)  # of a draft's tokens that are replaced


def get_parser():
    parser = recipe_parser(__doc__)
    parser.add_argument("--utterances", type=int, default=300, help="of the set, the first ones")
    parser.add_argument("--batch_sizes", default="1 16 64", help="utterances in a batch")
    parser.add_argument("--batch_seconds", type=float, default=1000.0, help="audio in a batch")
    parser.add_argument("--draft_accept", type=float, default=0.3, help="of guided")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser


def prepared(args, model, tokenizer, rate, size):
    """[(ids, prompts, limits, drafts)] of all batches of a size."""
    import torch

    from espnet_llmvq.decode import ctc, generate

    found, frame = [], model.speech_encoder.rate.seconds
    for ids, batch in batches(args, tokenizer, size):
        with torch.inference_mode():
            batch = generate.encoded(model, batch)
            limits = [generate.length_limit(n * frame, rate) for n in batch["speech_lengths"].tolist()]
            found.append((ids, generate.prompt_inputs(model, batch), limits, ctc.drafts(model, batch)))
    return found


def ours(model, tokenizer, **options):
    """Function from what is `prepared` to {utterance: `Hypothesis`}."""
    from espnet_llmvq.decode.generate import search

    def decode(work):
        found = {}
        for ids, prompts, limits, drafts in work:
            given = {"drafts": drafts, **options} if options else {}
            lists = search(model, tokenizer, prompts, limits, 1, **given)
            found.update((utt, row[0]) for utt, row in zip(ids, lists) if row)
        return found

    return decode


def theirs(model, tokenizer, **options):
    """Function from what is `prepared` to {utterance: tokens} by transformers' `generate`."""
    import torch

    from espnet_llmvq.decode.generate import EndAtLimit

    eos, pad = tokenizer.eos_token_id, torch.nn.utils.rnn.pad_sequence

    @torch.inference_mode()
    def decode(work):
        found = {}
        for ids, prompts, limits, _ in work:
            inside = [prompt.new_ones(len(prompt), dtype=torch.long) for prompt in prompts]
            inputs, mask = (pad(rows, True, padding_side="left") for rows in (prompts, inside))
            end = EndAtLimit(torch.tensor(limits, device=inputs.device), 1, eos)
            rows = model.llm.generate(
                inputs_embeds=inputs, attention_mask=mask, do_sample=False, max_new_tokens=max(limits) + 1,
                logits_processor=[end], eos_token_id=eos, pad_token_id=eos, **options,
            ).tolist()  # fmt: skip
            found.update((utt, row[: row.index(eos)] if eos in row else row) for utt, row in zip(ids, rows))
        return found

    return decode


def compared(ways, work, repeats):
    """({name: what it found}, {name: times and ratios}) of functions, plain among them."""
    found, spent = {}, {kind: {name: [] for name in ways} for kind in ("", "cpu_")}
    for decode in ways.values():
        decode(work[:1])
    for run in range(repeats):
        for name in list(ways)[:: 1 if run % 2 == 0 else -1]:
            start = clock(), time.process_time()
            found[name] = ways[name](work)
            for kind, end, begin in zip(spent, (clock(), time.process_time()), start):
                spent[kind][name].append(end - begin)
    told = {name: {} for name in ways}
    for kind, seconds in spent.items():
        middle = {name: statistics.median(times) for name, times in seconds.items()}
        for name, times in seconds.items():
            told[name][f"{kind}seconds"] = [round(x, 2) for x in (min(times), middle[name], max(times))]
            told[name][f"{kind}ratio"] = round(middle["plain"] / middle[name], 2)
    return found, told


def gap(model, prompt, one, other):
    """Difference in log probability of the tokens at which two texts part, after a prompt (P, H)."""
    import torch

    same = len(os.path.commonprefix([one, other]))
    inputs = torch.cat([prompt, model.llm.get_input_embeddings()(torch.tensor(one[:same], dtype=torch.long))])
    with torch.inference_mode():
        logits = model.llm(inputs_embeds=inputs[None]).logits[0, -1].float()
    ends = [row[same] if same < len(row) else model.eos_id for row in (one, other)]
    return round(abs(float(logits[ends[0]] - logits[ends[1]])), 6)


def told(hypotheses):
    """What drafts did: accepted share and passes an utterance."""
    tokens = sum(len(h.tokens) + 1 for h in hypotheses)
    return {
        "accepted": round(sum(h.accepted for h in hypotheses) / tokens, 3),
        "passes": round(sum(h.passes for h in hypotheses) / len(hypotheses), 2),
        "tokens": round(tokens / len(hypotheses), 1),
    }


def spoilt(tokens, share, size, rng):
    """Tokens of which a share was replaced by random ones."""
    return [rng.randrange(size) if rng.random() < share else token for token in tokens]


def main():
    args = get_parser().parse_args()
    args.json = os.path.abspath(args.json)
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import read_systems

    os.chdir(args.recipe)
    (system,) = read_systems(read_cards("conf"), [args.system], args.expdir)
    if not os.path.exists(os.path.join(system.model, "model.pth")) or not os.path.exists(args.set):
        reason = f"{args.recipe} has no trained {args.system}; run the recipe first"
        print(reason)
        write_text(args.json, json.dumps({"skipped": reason}) + "\n")
        return
    import torch

    from espnet_llmvq.base.config import read_yaml
    from espnet_llmvq.model.positions import LEAST_RATE

    torch.set_num_threads(args.threads)
    model, tokenizer = load(system.model)
    rate = read_yaml(os.path.join(system.model, "config.yaml")).get("tokens_per_second", LEAST_RATE)
    common = {
        "plain": ours(model, tokenizer),
        "exact": ours(model, tokenizer, draft_accept=1.0),
        "guided": ours(model, tokenizer, draft_accept=args.draft_accept),
        "transformers": theirs(model, tokenizer),
    }
    shown = {"sizes": {}, "curve": []}
    for size in map(int, args.batch_sizes.split()):
        work = prepared(args, model, tokenizer, rate, size)
        ways = {**common, "lookup": theirs(model, tokenizer, prompt_lookup_num_tokens=10)} if size == 1 else common
        found, row = compared(ways, work, args.repeats)
        prompts = {utt: prompt for ids, inputs, *_ in work for utt, prompt in zip(ids, inputs)}
        for name in ("exact", "guided"):
            row[name].update(told(found[name].values()))
        for name in ("plain", "exact", "guided"):
            texts = {utt: tokenizer.decode(h.tokens, skip_special_tokens=True) for utt, h in found[name].items()}
            row[name]["wer"] = error_rate(args, texts)
            row[name]["at_limit"] = sum(h.at_limit for h in found[name].values())
        pairs = {utt: (h.tokens, found["exact"][utt].tokens) for utt, h in found["plain"].items()}
        row["differ"] = {utt: gap(model, prompts[utt], *pair) for utt, pair in pairs.items() if pair[0] != pair[1]}
        shown["sizes"][size] = row
        print(size, json.dumps(row), flush=True)
        if size == 1:
            for share in SHARES:
                rng = random.Random(0)
                texts = {utt: spoilt(h.tokens, share, len(tokenizer), rng) for utt, h in found["plain"].items()}
                spoilt_work = [(ids, *rest, [texts.get(utt, []) for utt in ids]) for ids, *rest, _ in work]
                drafted, row = compared({name: common[name] for name in ("plain", "exact")}, spoilt_work, args.repeats)
                shown["curve"].append({"replaced": share, **told(drafted["exact"].values()), **row["exact"]})
                print(shown["curve"][-1], flush=True)
    result = {
        **shown,
        "device": torch.cuda.get_device_name() if device() == "cuda" else "CPU",
        "cpus": os.cpu_count(),
        "load": [round(x, 1) for x in os.getloadavg()],
        **{key: getattr(args, key) for key in ("system", "set", "utterances", "threads", "repeats", "draft_accept")},
    }
    write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
