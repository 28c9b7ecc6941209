"""The cluster launcher's files are checked by Ray's own schema and by what the clouds say of a machine, offline."""

import copy
import importlib.resources
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from botocore.session import Session
from botocore.validate import ParamValidator
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.strict import strict

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("ray_cluster.yaml", "cluster/gcp.yaml")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture(params=LAUNCHERS)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_config_is_valid_for_ray(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_unknown_key_is_found(config: dict[str, Any]) -> None:
    config["idle_timeout_minute"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_every_command_is_own(config: dict[str, Any]) -> None:
    # A command list that is left out is filled by defaults that install a nightly Ray.
    prepared = prepare_config(copy.deepcopy(config))
    assert prepared["head_setup_commands"] == config["setup_commands"] + config["head_setup_commands"]
    assert prepared["worker_setup_commands"] == config["setup_commands"] + config["worker_setup_commands"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key] == config[key]


def run_instances_errors(node_config: dict[str, Any]) -> str:
    """What botocore would refuse in a launch with this node_config; empty when nothing."""
    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    assert shape is not None
    report = ParamValidator().validate(node_config | {"MinCount": 1, "MaxCount": 1}, shape)
    if node_config["InstanceType"] not in shape.members["InstanceType"].enum:
        return f"{node_config['InstanceType']} is no instance type; {report.generate_report()}"
    return report.generate_report()


@cache
def compute_schemas() -> dict[str, Any]:
    """What Google's API says of its values, as strict JSON schemas."""
    place = importlib.resources.files("googleapiclient") / "discovery_cache" / "documents" / "compute.v1.json"
    return strict(json.loads(place.read_text())["schemas"], "schemas")


def insert_instance_errors(node_config: dict[str, Any]) -> str:
    """What Google's API would not know, or refuse, in a launch with this node_config; empty when nothing."""
    schema = {"$ref": "#/schemas/Instance", "schemas": compute_schemas()}
    return "; ".join(error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(node_config))


ERRORS = {"aws": run_instances_errors, "gcp": insert_instance_errors}


def test_node_configs_fit_the_cloud(config: dict[str, Any]) -> None:
    node_types, errors = config["available_node_types"], ERRORS[config["provider"]["type"]]
    found = {name: errors(kind["node_config"]) for name, kind in node_types.items()}
    assert found == dict.fromkeys(node_types, "")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ray_cluster.yaml", {"InstanceMarketOption": {"MarketType": "spot"}}, "Unknown parameter"),
        ("ray_cluster.yaml", {"BlockDeviceMappings": [{"Ebs": {"VolumeSize": "200"}}]}, "Invalid type"),
        ("ray_cluster.yaml", {"InstanceType": "g5.tiny"}, "no instance type"),
        ("cluster/gcp.yaml", {"machinetype": "g2-standard-4"}, "'machinetype' was unexpected"),
        ("cluster/gcp.yaml", {"scheduling": [{"preemptible": True}]}, "is not of type 'object'"),
        ("cluster/gcp.yaml", {"scheduling": {"provisioningModel": "Spot"}}, "'Spot' is not one of"),
        ("cluster/gcp.yaml", {"disks": [{"initializeParams": {"diskSizeGb": 200}}]}, "200 is not of type 'string'"),
    ],
)
def test_wrong_node_config_is_found(name: str, change: dict[str, Any], message: str) -> None:
    config = read(name)
    node_config = config["available_node_types"]["gpu_spot"]["node_config"] | change
    assert message in ERRORS[config["provider"]["type"]](node_config)


def is_spot(node_config: dict[str, Any]) -> bool:
    aws = node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


def test_head_takes_no_work_and_workers_start_from_none(config: dict[str, Any]) -> None:
    workers = dict(config["available_node_types"])
    head = workers.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert not is_spot(head["node_config"])
    assert [(kind["min_workers"], kind["max_workers"]) for kind in workers.values()] == [(0, 8)] * 2
    # What has the higher priority is tried first, and the other one when it is not to be had.
    assert [(is_spot(kind["node_config"]), kind.get("priority", 0)) for kind in workers.values()] == [
        (True, 1),
        (False, 0),
    ]


def test_every_machine_has_an_image_and_an_identity_of_its_own(config: dict[str, Any]) -> None:
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        if config["provider"]["type"] == "aws":
            image, identity = node["ImageId"], node["IamInstanceProfile"]["Name"]
            assert node["MetadataOptions"] == {"HttpTokens": "required"}
        else:
            image, identity = node["disks"][0]["initializeParams"]["sourceImage"], node["serviceAccounts"][0]["email"]
        assert "nvidia" in image
        assert identity.partition("@")[0] == ("davam-head" if name == config["head_node_type"] else "davam-worker")


def test_image_has_the_pinned_ray(config: dict[str, Any]) -> None:
    pins = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert [config["docker"]["image"]] == [f"rayproject/ray:{version}-py311-gpu" for version in pins]
    assert f"train,tune]=={pins[0]}" in (ROOT / "pyproject.toml").read_text()


def test_nodes_ask_for_a_token_and_keep_to_themselves(config: dict[str, Any]) -> None:
    options = set(config["docker"]["run_options"])
    token_path = next(remote for remote, local in config["file_mounts"].items() if local.endswith("auth_token"))
    assert {"--env RAY_AUTH_MODE=token", f"--env RAY_AUTH_TOKEN_PATH={token_path}"} <= options
    assert "--env RAY_USAGE_STATS_ENABLED=0" in options
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert not any("0.0.0.0" in command for command in config["head_start_ray_commands"])


def test_the_launchers_differ_in_the_cloud_alone() -> None:
    aws, gcp = (read(name) for name in LAUNCHERS)
    own = {"provider", "available_node_types", "initialization_commands", "setup_commands", "head_setup_commands"}
    assert {key: aws[key] for key in aws.keys() - own} == {key: gcp[key] for key in gcp.keys() - own}
    # Stores at gs:// need a package that those at s3:// do not.
    assert [line.removesuffix(" .") + " '.[gcs]'" for line in aws["setup_commands"]] == gcp["setup_commands"]


def test_no_code_is_left_behind(config: dict[str, Any]) -> None:
    names = {path.name for path in (ROOT / "davam").rglob("*")} - {"__pycache__"}
    unanchored = {pattern for pattern in config["rsync_exclude"] if not pattern.startswith("/")}
    assert not names & unanchored
    assert {"/data", "/davam_store", "/runs"} <= set(config["rsync_exclude"])


def test_a_job_takes_the_code_and_leaves_the_data() -> None:
    excludes = get_excludes_from_ignore_files(ROOT, include_gitignore=True)

    def travels(path: str) -> bool:
        return not any(exclude(ROOT / path) for exclude in excludes)

    for path in ("davam/data/fs.py", "davam/presets/tiny.yaml", "pipelines/full.py", "cluster/train.py"):
        assert travels(path), path
    for path in (".git/HEAD", ".venv/bin/python", "data/ptb.txt", "davam_store/a", "runs/a", "tests/small.py"):
        assert not travels(path), path
