"""`ray_cluster.yaml` against the launcher's own validator, and its nodes against AWS's request shape, offline."""

import copy
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_the_launcher_accepts_it() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(CONFIG, schema)
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(CONFIG)))


def test_a_typo_would_be_refused() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(CONFIG | {"max_wrokers": 3}, schema)


@pytest.mark.parametrize("name", CONFIG["available_node_types"])
def test_nodes_are_requests_that_aws_knows(name: str) -> None:
    session = pytest.importorskip("botocore.session", reason="botocore holds AWS's request shapes")
    from botocore.validate import ParamValidator

    shape = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    request = {"MinCount": 1, "MaxCount": 1} | CONFIG["available_node_types"][name]["node_config"]
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()


def test_the_image_has_the_pinned_ray_and_the_head_takes_no_work() -> None:
    assert f"rayproject/ray:{metadata.version('ray')}-" in CONFIG["docker"]["image"]
    assert re.search(r"ray\[[a-z,]+\]==2\.60\.0", (ROOT / "pyproject.toml").read_text())
    assert CONFIG["available_node_types"]["head"]["resources"]["CPU"] == 0
    assert any("RAY_AUTH_MODE=token" in option for option in CONFIG["docker"]["run_options"])
