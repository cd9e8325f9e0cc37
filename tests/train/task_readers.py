"""The raw task sets of the test data as gptloom reads them: named columns where a file is a table, rewritten as JSON
lines where it is not (xml, conll, SQuAD's nesting, labels and options inside texts, latin-1)."""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from real_data import real_data

from gptloom.config.task import Columns, Task
from gptloom.data.columns import declared_names
from gptloom.data.example import Examples
from gptloom.data.tables import Table, read_table
from gptloom.data.task_examples import read_examples

COPA_ASKS = {"cause": "What was the cause?", "effect": "What happened as a result?"}

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class TaskSet:
    """A set: its task, its columns, its files by split, and what rewrites them where they are no tables."""

    task: Task
    columns: Columns
    files: dict[str, str]
    rewritten: Callable[[Path], Rows] | None = None


def task_table(name: str, split: str, folder: Path) -> Table:
    """One split of a set as a table, rewritten into ``folder`` where that is needed; skips where the data is absent."""
    return read_table(str(task_file(name, split, folder)), named=declared_names(TASK_SETS[name].columns))


def task_examples(name: str, split: str, folder: Path, labels: tuple[str, ...] | None = None) -> Examples:
    """The examples of one split; ``labels`` are those of training, where it was read before."""
    task_set = TASK_SETS[name]
    return read_examples([task_table(name, split, folder)], task_set.task, task_set.columns, labels)


def task_file(name: str, split: str, folder: Path) -> Path:
    """A file of one split that gptloom reads, for ``--data``."""
    task_set = TASK_SETS[name]
    raw = real_data(task_set.files[split])
    if task_set.rewritten is None:
        return raw
    path = folder / f"{name}.{split}.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in task_set.rewritten(raw)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _rte(path: Path) -> Rows:
    for pair in ElementTree.parse(path).getroot().iter("pair"):
        answer = pair.get("value") or pair.get("entailment")
        said = "yes" if answer in ("TRUE", "YES") else "no"
        yield {"premise": pair.findtext("t"), "hypothesis": pair.findtext("h"), "label": said}


def _copa(path: Path) -> Rows:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        question = f"{row.pop('premise')} {COPA_ASKS[row['question']]}"
        yield row | {"question": question}


def _arc(path: Path) -> Rows:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for row in json.loads(raw):
        asked, _, options = row["instruction"].partition("\n\nAnswer1: ")
        options = options.partition("\n\nAnswer format:")[0]
        yield {
            "question": asked.removeprefix("Please choose the correct answer to the question: "),
            "choices": [option.strip() for option in re.split(r"Answer\d+: ", options)],
            "label": int(row["answer"].removeprefix("answer")),
        }


def _trec(path: Path) -> Rows:
    for line in path.read_text(encoding="latin-1").splitlines():
        label, _, text = line.partition(" ")
        yield {"text": text, "label": label.partition(":")[0], "fine": label}


def _conll(path: Path) -> Rows:
    words: list[str] = []
    tags: list[str] = []
    for line in [*path.read_text(encoding="utf-8").split("\n"), ""]:
        word, _, tag = line.partition("\t")
        if word.strip():
            words.append(word.strip())
            tags.append(tag.strip())
        elif words:
            yield {"tokens": words, "tags": tags}
            words, tags = [], []


def _squad(path: Path) -> Rows:
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answer = asked["answers"][0]
                yield {
                    "context": paragraph["context"],
                    "question": asked["question"],
                    "answer": answer["text"],
                    "answer_start": answer["answer_start"],
                }


_PAIR = Columns(text="premise", second="hypothesis", label="label")
_SICK = {"train": "sick/SICK_train.txt", "valid": "sick/SICK_trial.txt"}
_MSRP = {"train": "msrp/msr-para-train.tsv", "valid": "msrp/msr-para-val.tsv"}
_ARC = Columns(text="question", choices=("choices",), label="label")

TASK_SETS: dict[str, TaskSet] = {
    "sst2": TaskSet("classify", Columns(text="1", label="2"), {"train": "sst2/train.tsv", "valid": "sst2/dev.tsv"}),
    "cola": TaskSet(
        "classify",
        Columns(text="4", label="2"),
        {"train": "cola/in_domain_train.tsv", "valid": "cola/in_domain_dev.tsv"},
    ),
    "sms_spam": TaskSet("classify", Columns(text="2", label="1"), {"train": "sms_spam/SMSSpamCollection"}),
    "ag_news": TaskSet("classify", Columns(text="3", label="1"), {"train": "ag_news/test.csv.gz"}),
    "trec": TaskSet(
        "classify",
        Columns(text="text", label="label"),
        {"train": "trec/TREC.train", "test": "trec/TREC.test"},
        _trec,
    ),
    "sick_entail": TaskSet(
        "entail", Columns(text="sentence_A", second="sentence_B", label="entailment_judgment"), _SICK
    ),
    "sick_similar": TaskSet(
        "similar", Columns(text="sentence_A", second="sentence_B", label="relatedness_score"), _SICK
    ),
    "stsb": TaskSet(
        "similar",
        Columns(text="1", second="2", label="3"),
        {"train": "stsb/stsb-en-train.csv", "valid": "stsb/stsb-en-dev.csv"},
    ),
    "msrp": TaskSet("similar", Columns(text="#1 String", second="#2 String", label="Quality"), _MSRP),
    "rte": TaskSet("entail", _PAIR, {"train": "rte/rte3_dev.xml", "valid": "rte/rte2_dev.xml"}, _rte),
    "rte1": TaskSet("entail", _PAIR, {"train": "rte/rte1_dev.xml", "test": "rte/rte1_test.xml"}, _rte),
    "cb": TaskSet("entail", _PAIR, {"train": "cb/train.jsonl", "valid": "cb/val.jsonl"}),
    "copa": TaskSet(
        "choice",
        Columns(text="question", choices=("choice1", "choice2"), label="label"),
        {"train": "copa/train.jsonl", "valid": "copa/val.jsonl"},
        _copa,
    ),
    "arc_easy": TaskSet("choice", _ARC, {"train": "arc_easy/train.json.gz", "test": "arc_easy/test.json.gz"}, _arc),
    "arc_challenge": TaskSet("choice", _ARC, {"train": "arc_challenge/train.json"}, _arc),
    "wnut17": TaskSet(
        "tokens",
        Columns(text="tokens", label="tags"),
        {"train": "wnut17/wnut17train.conll", "valid": "wnut17/emerging.dev.conll"},
        _conll,
    ),
    "xquad": TaskSet(
        "span",
        Columns(text="context", second="question", label="answer", start="answer_start"),
        {"train": "xquad/xquad.en.json"},
        _squad,
    ),
}
