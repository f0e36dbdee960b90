"""Questions in their public forms: MMLU (tables by subject, or JSON lines), and spoken question answering."""

import ast
import json
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.manifest import Faults, read_json_lines, read_lines, read_table, split_fields
from espnet_llmvq.sequence.questions import LETTERS

AUDIO_KEYS = ("audio", "audio_path", "audio_filepath", "wav")
# Sets of OpenAudioBench: columns of the question, the answer and further answers, and what separates answers.
OPEN_SETS = {
    "llama_questions": ("Questions", "Answer", None, None),
    "web_questions": ("question", "answers", None, ";"),
    "trivia_qa": ("question", "answer_normalized_value", "answer_normalized_aliases", ","),
}


def _audio_of(entry, folder, where, faults):
    """Absolute path of an entry's audio, None if it names none; a fault if there is no such file."""
    named = next((entry[key] for key in AUDIO_KEYS if entry.get(key)), None)
    if named is None:
        return None
    path = folder / str(named)
    if not path.is_file():
        faults.add(where, f"no audio file {path} (correct the path)")
    return str(path.absolute())


def _json_questions(path, parse, faults):
    """Questions of a JSON-lines file. parse: (object, where) -> dict without id and wav, or None."""
    found = []
    for where, entry in read_json_lines(path, faults):
        question = parse(entry, where)
        if question is not None:
            parts = [entry["subject"]] if entry.get("subject") else []
            made = "-".join([*parts, Path(path).stem, f"{int(where.rsplit(':', 1)[1]):05d}"])
            utt = str(entry.get("id") or made)
            question = {"id": "_".join(utt.split()), **question}
            wav = _audio_of(entry, Path(path).parent, where, faults)
            found.append({**question, "wav": wav} if wav else question)
    return found


def _choice(answer, choices):
    """Number of the right choice: given as 0 to 3, as its letter or in its words. None if it is none."""
    if isinstance(answer, str) and answer.strip() in tuple(LETTERS):
        return LETTERS.index(answer.strip())
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    return answer if type(answer) is int and 0 <= answer < len(LETTERS) else None


def read_mmlu(path):
    """(questions, examples, {id: reason}) of MMLU as dicts of data.questions, without the ids of left-out ones.

    path: the folder of the benchmark, with test/SUBJECT_test.csv and dev/SUBJECT_dev.csv (question, A, B, C, D, answer;
    no header), also in data/; or test.jsonl and dev.jsonl, or one such file; lines with question, choices, answer and
    where it is spoken audio. Questions with two choices that are the same are left out.
    """
    faults, left_out = Faults(), {}

    def make(question, choices, answer, where):
        choices = [" ".join(str(choice).split()) for choice in choices or ()]
        number = _choice(" ".join(answer.split()) if isinstance(answer, str) else answer, choices)
        if not isinstance(question, str) or not question.strip() or len(choices) != len(LETTERS) or not all(choices):
            faults.add(where, "not a question with four choices: question, A, B, C, D, answer")
        elif number is None:
            faults.add(where, f"answer {answer!r} is none of the choices, A to D or 0 to 3")
        elif len(set(choices)) < len(choices):
            left_out[where] = "two choices are the same"
        else:
            return {"question": " ".join(question.split()), "choices": choices, "answer": number}
        return None

    def of_json(entry, where):
        choices = entry.get("choices") or [entry.get(letter) for letter in LETTERS]
        return make(entry.get("question"), choices if isinstance(choices, list) else None, entry.get("answer"), where)

    def of_table(file, split):
        subject, found = file.stem.removesuffix(f"_{split}"), []
        for number, fields in split_fields(read_lines(file), ","):
            where = f"{file}:{number}"
            if len(fields) != 6:
                faults.add(where, f"{len(fields)} fields, not question, A, B, C, D, answer")
                continue
            question = make(fields[0], fields[1:5], fields[5], where)
            if question is not None:
                found.append({"id": f"{subject}-{split}-{number:05d}", **question})
        return found

    def read(root, split):
        if (root / f"{split}.jsonl").is_file():
            return _json_questions(root / f"{split}.jsonl", of_json, faults)
        return [q for file in sorted((root / split).glob(f"*_{split}.csv")) for q in of_table(file, split)]

    path = Path(path)
    if path.is_file():
        questions, examples = _json_questions(path, of_json, faults), []
    else:
        root = path / "data" if (path / "data").is_dir() else path
        questions, examples = read(root, "test"), read(root, "dev")
    faults.check()
    if not questions:
        raise UserError(f"MMLU={path}: neither test/*_test.csv nor test.jsonl in it")
    return questions, examples, left_out


def spread(questions, most):
    """At most `most` questions, evenly over the list, so of as many subjects as there can be."""
    n = min(most, len(questions))
    return [questions[i * len(questions) // n] for i in range(n)]


def _answers(value, separator=None):
    """Accepted answers of a cell or a JSON value: a text, several with a separator, or a list."""
    if isinstance(value, dict):  # as SQuAD has them
        value = value.get("text")
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            pass
    if isinstance(value, str):
        value = value.split(separator) if separator else [value]
    texts = [" ".join(str(v).split()) for v in value] if isinstance(value, list) else []
    return list(dict.fromkeys(text for text in texts if text))


def read_spoken_qa(path):
    """Open questions as dicts of data.questions, all with `wav` or all without.

    path: OpenAudioBench (eval_datas/NAME/NAME.csv with audios/ beside it) or one of its sets; or a JSON-lines file with
    question, answer or answers, and where it is spoken audio.
    """
    faults, path = Faults(), Path(path)

    def of_json(entry, where):
        answers = _answers(entry.get("answers", entry.get("answer")))
        if not answers or not isinstance(entry.get("question"), str) or not entry["question"].strip():
            faults.add(where, f"no question or no answer: {json.dumps(entry)[:80]}")
            return None
        return {"question": " ".join(entry["question"].split()), "answer": answers}

    if path.is_file():
        questions = _json_questions(path, of_json, faults)
    else:
        root = path / "eval_datas" if (path / "eval_datas").is_dir() else path
        tables = [t for name in OPEN_SETS for t in (root / name / f"{name}.csv", root / f"{name}.csv") if t.is_file()]
        if not tables:
            raise UserError(f"SQA={path}: no {' or '.join(f'{n}/{n}.csv' for n in OPEN_SETS)} of OpenAudioBench in it")
        questions = []
        for table in tables:
            asked, answer, aliases, separator = OPEN_SETS[table.stem]
            for where, row in read_table(table, (asked, answer, "audio_filename"), faults):
                accepted = _answers(row[answer], None if aliases else separator)
                accepted += _answers(row.get(aliases) or "", separator) if aliases else []
                if not row[asked] or not accepted:
                    faults.add(where, "no question or no answer")
                    continue
                number = int(where.rsplit(":", 1)[1])
                wav = _audio_of({"audio": row["audio_filename"]}, table.parent / "audios", where, faults)
                question = {"id": f"{table.stem}-{number:05d}", "question": " ".join(row[asked].split())}
                questions.append({**question, "answer": list(dict.fromkeys(accepted)), **({"wav": wav} if wav else {})})
    faults.check()
    return questions
