"""What a user reads when training ends by an error that is not theirs."""

import pytest
from ray import exceptions

from cluster.batch import loss_error
from cluster.train import reason

WORKERS = """Training failed due to worker errors:
[Rank 0 Error Snippet]:
Traceback (most recent call last):
  File "train.py", line 3, in work
    raise RuntimeError("no gradient")
torch.distributed.DistBackendError: parameters got no gradient. You can
 set an environment variable

 to learn which"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError(WORKERS),
            "torch.distributed.DistBackendError: parameters got no gradient. You can",
        ),
        (OSError("No space left on device"), "No space left on device"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_the_line_that_says_what_went_wrong(error: Exception, line: str) -> None:
    assert reason(error) == line


def test_a_lost_part_of_the_cluster_is_one_message() -> None:
    assert str(loss_error(exceptions.NodeDiedError("The node died.\n\tnode_id: 1"))) == (
        "the cluster lost a part of the work (The node died.); the same command goes on with what is missing"
    )
    assert loss_error(ValueError("a mistake of ours keeps its traceback")) is None
