"""What the roles of cluster/policies may do in the store, as IAM decides it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session
from moto.iam.access_control import IAMPolicy, PermissionResult

FOLDER = Path(__file__).parents[2] / "cluster" / "policies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
STORE = "arn:aws:s3:::bucket/davam"
# Every folder that a program writes to in its store, and the file by which it finds out whether it may.
WRITTEN = (
    *("artifacts", "augment", "decisions", "experiments", "leases", "plans", "runs", "sweeps", "tables", "train"),
)
PIECES = (*(f"{folder}/a/b.parquet" for folder in WRITTEN), ".probe-1a2b3c4d")
POINTER = "channels/prod/000001.json"
ACTIONS = {
    "reader": {"s3:GetObject", "s3:ListBucket"},
    "trainer": {"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"},
    "promoter": {"s3:GetObject", "s3:ListBucket", "s3:PutObject"},
    "launcher": {
        "ec2:CreateTags",
        "ec2:DescribeInstances",
        "ec2:RunInstances",
        "ec2:TerminateInstances",
        "iam:PassRole",
        "ssm:GetParameters",
    },
}


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def may(name: str, action: str, key: str) -> bool:
    """Whether the policy alone lets its holder do that to the object of the store."""
    decided = IAMPolicy(json.dumps(read(name))).is_action_permitted(f"s3:{action}", f"{STORE}/{key}")
    return decided is PermissionResult.PERMITTED


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_every_role_has_its_policy() -> None:
    assert sorted(ACTIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_allows_the_actions_that_it_needs_and_no_others(name: str) -> None:
    policy = read(name)
    assert policy["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    actions = {action for statement in policy["Statement"] for action in listed(statement["Action"])}
    assert actions == ACTIONS[name]
    for action in actions:
        service, _, operation = action.partition(":")
        if (service, operation) not in {("iam", "PassRole"), ("s3", "ListBucket")}:  # which are no calls of that name
            known = Session().get_service_model(service).operation_names
            assert operation in known, f"{action} is no action"


@pytest.mark.parametrize("name", NAMES)
def test_resources_are_named_but_for_a_launch(name: str) -> None:
    for statement in read(name)["Statement"]:
        if statement["Sid"] != "Launch":  # EC2 knows no narrower resource for a list of machines
            assert "*" not in listed(statement["Resource"])


@pytest.mark.parametrize("key", [*PIECES, POINTER])
def test_all_read_and_the_reader_never_writes(key: str) -> None:
    assert [may(name, "GetObject", key) for name in ("reader", "trainer", "promoter")] == [True] * 3
    assert not any(may("reader", action, key) for action in ("PutObject", "DeleteObject", "AbortMultipartUpload"))


@pytest.mark.parametrize("action", ["PutObject", "DeleteObject", "AbortMultipartUpload"])
def test_the_trainer_writes_all_but_the_pointers(action: str) -> None:
    assert all(may("trainer", action, key) for key in PIECES)
    assert not may("trainer", action, POINTER)
    assert not may("trainer", action, "other.txt")


def test_the_promoter_writes_the_pointers_alone() -> None:
    assert may("promoter", "PutObject", POINTER)
    assert not may("promoter", "DeleteObject", POINTER)
    assert not any(may("promoter", "PutObject", key) for key in PIECES)


@pytest.mark.parametrize("name", ["reader", "trainer", "promoter"])
def test_nothing_is_said_of_other_buckets(name: str) -> None:
    policy = IAMPolicy(json.dumps(read(name)))
    for action in sorted(ACTIONS[name]):
        decided = policy.is_action_permitted(action, "arn:aws:s3:::other/davam/artifacts/a")
        assert decided is PermissionResult.NEUTRAL


def test_the_programs_folders_are_those_that_the_policies_name() -> None:
    root = FOLDER.parents[1]
    code = "".join(
        path.read_text() for name in ("cluster", "davam", "pipelines") for path in (root / name).rglob("*.py")
    )
    found = set(re.findall(r'fs\.join\([\w.\[\]]*\b(?:store|store_uri)(?:\.uri)?, "(\w+)"', code))
    assert {"train", "tables"} <= found <= {*WRITTEN, "channels"}
