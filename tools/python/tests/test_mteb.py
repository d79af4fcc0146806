"""What mteb's own evaluation does with an engine. No data set is downloaded: the tasks hold their texts."""

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")

from mteb.mocks.mock_tasks import (  # noqa: E402
    MockClassificationTask,
    MockMultilingualClusteringFastTask,
    MockRerankingTask,
    MockRetrievalTask,
    MockSTSTask,
)
from mteb.models import EncoderProtocol  # noqa: E402

from ropeway.mteb import RopewayEncoder  # noqa: E402

# The tasks of the model that each of mteb's uses.
CASES = [
    (MockRetrievalTask, {"retrieval.query", "retrieval.passage"}),
    (MockSTSTask, {"text-matching"}),
    (MockClassificationTask, {"classification"}),
    (MockMultilingualClusteringFastTask, {"separation"}),
    (MockRerankingTask, {"separation"}),
]


class Watched(RopewayEncoder):
    """Keeps what was computed with which task."""

    def __init__(self, engine, **words):
        super().__init__(engine, **words)
        self.seen = []

    def encode(self, inputs, **kwargs):
        batches = list(inputs)
        found = super().encode(batches, **kwargs)
        texts = [text for batch in batches for text in batch["text"]]
        known = {task for task in self.engine.prompts if np.array_equal(found, self.engine.encode(texts, task=task))}
        assert len(known) == 1, "one task alone gives these vectors"
        self.seen.append(known.pop())
        return found


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("task, wanted", CASES)
def test_evaluation_takes_the_tasks_of_jinas_authors(engine, task, wanted):
    encoder = Watched(engine)
    assert isinstance(encoder, EncoderProtocol)
    results = mteb.evaluate(encoder, task(), cache=None, co2_tracker=False)
    assert set(encoder.seen) == wanted
    assert all(0 <= one.get_score() <= 1 or task is MockSTSTask for one in results.task_results)


@pytest.mark.filterwarnings("default")
def test_a_task_of_ones_own(engine):
    encoder = Watched(engine, tasks={"STS": "separation"}, words={"truncate_dim": None})
    mteb.evaluate(encoder, MockSTSTask(), cache=None, co2_tracker=False)
    assert set(encoder.seen) == {"separation"}
