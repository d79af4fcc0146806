"""ropeway as mteb's encoder. Needs the package ``mteb``.

>>> import mteb
>>> from ropeway import Engine
>>> from ropeway.mteb import RopewayEncoder
>>> mteb.evaluate(RopewayEncoder(Engine("models/all-MiniLM-L6-v2")), mteb.get_tasks(tasks=["STS12"]))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from ._engine import DOCUMENT_TASKS, QUERY_TASKS, Engine, known_task

# The tasks that jina-embeddings-v3's authors take for those of mteb, by mteb's type or type and side.
JINA_V3_TASKS = {
    "Retrieval-query": "retrieval.query",
    "Retrieval-document": "retrieval.passage",
    "Clustering": "separation",
    "Reranking": "separation",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "PairClassification": "classification",
    "BitextMining": "text-matching",
    "STS": "text-matching",
    "Summarization": "text-matching",
}


def tasks_of(engine: Engine) -> Dict[str, str]:
    """The model's task for each of mteb's types (``STS``), types and sides (``Retrieval-query``) and sides (``query``)."""
    prompts = engine.prompts
    found = {name: task for name, task in JINA_V3_TASKS.items() if task in prompts}
    for side, tasks in (("query", QUERY_TASKS), ("document", DOCUMENT_TASKS)):
        task = known_task(tasks, prompts)
        if task is not None:
            found[side] = task
    return found


class RopewayEncoder(AbsEncoder):  # type: ignore[misc]
    """An engine as mteb's ``EncoderProtocol``.

    ``tasks`` says which task of the model (its adapter and its prompt) texts go with: by the name of mteb's task, its type
    (``"STS"``), either with a side (``"Retrieval-query"``), or a side (``"document"``); the first of these that is there
    holds. What it does not name goes with :func:`tasks_of`, which has jina-embeddings-v3's authors' choice, and else without
    a task. ``words`` are keywords of :meth:`ropeway.Engine.encode` for all texts. Results are filed under ``name``
    (``owner/name``), which is ``ropeway/`` with the folder's name if not given.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tasks: Optional[Mapping[str, str]] = None,
        name: Optional[str] = None,
        words: Optional[Mapping[str, Any]] = None,
    ) -> None:
        info = engine.info
        self.engine = engine
        self.words = dict(words or {})
        self.tasks: Dict[str, str] = {**tasks_of(engine), **(tasks or {})}
        # mteb's word for it, which its `get_prompt_name` reads.
        self.model_prompts = self.tasks
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": name or f"ropeway/{Path(info.path).name}",
                "revision": info.precision,
                "max_tokens": info.max_tokens,
                "embed_dim": info.dimensions,
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Optional[PromptType] = None,
        **kwargs: Any,
    ) -> Any:
        """Vectors ``[texts, dimensions]`` of a loader's batches. Of mteb's ``kwargs`` the precision is taken, and whether
        progress is shown; the engine's batches go by tokens."""
        texts = [text for batch in inputs for text in batch["text"]]
        words: Dict[str, Any] = {name: kwargs[name] for name in ("precision", "show_progress_bar") if name in kwargs}
        words.update(self.words)
        key = self.get_prompt_name(task_metadata, prompt_type)
        task = None if key is None else self.tasks[key]
        return self.engine.encode(texts, task=task, **words)
