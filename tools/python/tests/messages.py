"""Two tasks for mteb in 24 languages, made of the messages that Django shows to people, as its translators have them.

The package ``Django`` has them in its catalogues (``locale/*/LC_MESSAGES/django.mo``), under the BSD-3-Clause licence as all
of it. Nothing of them is in this repository. What is taken: messages of four words and more, without placeholders or markup.
"""

from __future__ import annotations

import gettext
import re
from pathlib import Path
from typing import Any, Dict, List, Set

import django
from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

# Django's names of languages, and mteb's.
LANGUAGES = {
    "ar": "ara-Arab", "cs": "ces-Latn", "de": "deu-Latn", "el": "ell-Grek", "es": "spa-Latn", "fa": "fas-Arab",
    "fi": "fin-Latn", "fr": "fra-Latn", "he": "heb-Hebr", "hi": "hin-Deva", "id": "ind-Latn", "it": "ita-Latn",
    "ja": "jpn-Jpan", "ko": "kor-Hang", "nl": "nld-Latn", "pl": "pol-Latn", "pt": "por-Latn", "ru": "rus-Cyrl",
    "sv": "swe-Latn", "th": "tha-Thai", "tr": "tur-Latn", "uk": "ukr-Cyrl", "vi": "vie-Latn", "zh_Hans": "zho-Hans",
}  # fmt: skip
# Of each language, spread over its messages.
QUERIES = 12
STS_MESSAGES = 4


def usable(message: str) -> bool:
    return len(message.split()) >= 4 and not re.search(r"[%{<\n\0\4]", message)


def translations() -> Dict[str, Dict[str, str]]:
    """For each language: English messages and what they are in it."""
    found: Dict[str, Dict[str, str]] = {language: {} for language in LANGUAGES}
    for file in sorted(Path(django.__file__).parent.rglob("locale/*/LC_MESSAGES/django.mo")):
        language = file.parts[-3]
        if language not in found:
            continue
        with open(file, "rb") as opened:
            catalogue: Dict[Any, str] = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
        for english, text in catalogue.items():
            # A message with a plural has a tuple for its key. What is not translated stays English.
            if isinstance(english, str) and usable(english) and text.strip() and text != english:
                found[language].setdefault(english, text)
    assert all(len(messages) >= 40 for messages in found.values())
    return found


def spread(messages: Dict[str, str], count: int) -> List[str]:
    names = sorted(messages)
    return [names[i * len(names) // count] for i in range(count)]


def words(message: str) -> Set[str]:
    return set(re.findall(r"\w+", message.lower()))


def likeness(first: str, second: str) -> float:
    """Dice's coefficient of the words: 1 for the same, 0 where none is shared."""
    a, b = words(first), words(second)
    return 2 * len(a & b) / (len(a) + len(b))


def metadata(kind: str, name: str, score: str, description: str) -> TaskMetadata:
    return TaskMetadata(
        type=kind,
        name=name,
        description=description,
        reference="https://github.com/django/django",
        dataset={"path": "NA", "revision": "NA"},
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn", *LANGUAGES.values()],
        main_score=score,
        date=("2005-07-01", "2025-12-31"),
        domains=["Web", "Written"],
        task_subtypes=[],
        license="bsd-3-clause",
        annotations_creators="derived",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
    )


class MessageRetrieval(AbsTaskRetrieval):
    metadata = metadata(
        "Retrieval", "MessageRetrieval", "ndcg_at_10", "A message in one of 24 languages finds the English one."
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        found = translations()
        corpus = sorted({english for messages in found.values() for english in messages})
        number = {english: f"d{i}" for i, english in enumerate(corpus)}
        queries = [(language, english) for language in found for english in spread(found[language], QUERIES)]
        named = {f"{language}-{number[english]}": (language, english) for language, english in queries}
        split = RetrievalSplitData(
            queries=Dataset.from_list([{"id": name, "text": found[one][english]} for name, (one, english) in named.items()]),
            corpus=Dataset.from_list([{"id": number[english], "text": english, "title": ""} for english in corpus]),
            relevant_docs={name: {number[english]: 1} for name, (_, english) in named.items()},
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class MessageSTS(AbsTaskSTS):
    """No person has judged these pairs: how alike two messages are is how many words they share in English."""

    min_score, max_score = 0, 1
    metadata = metadata(
        "STS",
        "MessageSTS",
        "cosine_spearman",
        "A message in one of 24 languages and an English one: its original, the one most like that, and another.",
    )

    def load_data(self, **kwargs: Any) -> None:
        rows = []
        for messages in translations().values():
            names = sorted(messages)
            for english in spread(messages, STS_MESSAGES):
                at = names.index(english)
                others = [other for other in names if other != english]
                nearest = max(others, key=lambda other: likeness(english, other))
                for second in (english, nearest, names[(at + len(names) // 2) % len(names)]):
                    rows.append({"sentence1": messages[english], "sentence2": second, "score": likeness(english, second)})
        self.dataset = DatasetDict({"test": Dataset.from_list(rows)})
        self.data_loaded = True
