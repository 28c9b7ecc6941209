"""KubeRay's files, rendered and checked offline: Kubernetes' own schemas for what is Kubernetes', a strict schema of
the fields used for what is KubeRay's, and KubeRay's own where DAVAM_KUBERAY_CRDS names the folder of its CRD files
(`ray-operator/config/crd/bases` of its repository)."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.kustomize import Documents, render
from tests.strict import strict

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = sorted(path.name for path in (KUBERAY / "overlays").iterdir())
KUBERNETES = "1.37"
RAY = next(re.finditer(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))[1]


def fields(required: str = "", **properties: Any) -> dict[str, Any]:
    """The schema of an object with these keys and no others."""
    names = required.split()
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
SECONDS = {"type": "integer", "minimum": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD = {"type": "object"}  # a pod's template, or a part of one: checked by Kubernetes' own schema
CLUSTER = fields(
    "headGroupSpec workerGroupSpecs rayVersion authOptions",
    rayVersion=TEXT,
    authOptions=fields("mode", mode={"const": "token"}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        "version", version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT, resources=POD, securityContext=POD
    ),
    headGroupSpec=fields("rayStartParams template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": fields(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=POD,
        ),
    },
)
JOB = fields(
    "entrypoint rayClusterSpec submitterPodTemplate activeDeadlineSeconds",
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
    shutdownAfterJobFinishes={"const": True},
    ttlSecondsAfterFinished=SECONDS,
    activeDeadlineSeconds=SECONDS,
    backoffLimit=COUNT,
    submitterPodTemplate=POD,
    rayClusterSpec=CLUSTER,
)
CRON = fields("schedule jobTemplate", schedule={"type": "string", "pattern": r"^(\S+ ){4}\S+$"}, jobTemplate=JOB)
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayCronJob": CRON}


def schema(kind: str) -> dict[str, Any]:
    metadata = fields("name namespace", name=TEXT, namespace=TEXT, annotations=TEXTS)
    version = {"const": "ray.io/v1"}
    return fields(
        "apiVersion kind metadata spec", apiVersion=version, kind={"const": kind}, metadata=metadata, spec=SPECS[kind]
    )


def cluster_spec(doc: dict[str, Any]) -> dict[str, Any]:
    """The cluster that the document describes or makes."""
    spec = doc["spec"]
    return {"RayCluster": spec, "RayJob": spec, "RayCronJob": spec.get("jobTemplate", {})}[doc["kind"]].get(
        "rayClusterSpec", spec
    )


def pod_templates(doc: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every pod's template in the document, by what the pod is."""
    if doc["kind"] == "CronJob":
        return {"submitter": doc["spec"]["jobTemplate"]["spec"]["template"]}
    spec = cluster_spec(doc)
    found = {"head": spec["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    job = doc["spec"].get("jobTemplate", doc["spec"])
    return found | ({"submitter": job["submitterPodTemplate"]} if "submitterPodTemplate" in job else {})


def check(doc: dict[str, Any]) -> None:
    """Raises jsonschema's ValidationError for a document that its server would not take, or not as it is meant."""
    if doc["kind"] not in SPECS:
        kubernetes_validate.validate(doc, KUBERNETES, strict=True)
        return
    jsonschema.validate(doc, schema(doc["kind"]))
    options = cluster_spec(doc)["autoscalerOptions"]
    sidecar = {"name": "autoscaler", **{key: options[key] for key in ("resources", "securityContext")}}
    for template in [*pod_templates(doc).values(), {"spec": {"containers": [sidecar]}}]:
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def rendered(overlay: str) -> str:
    return json.dumps(render(KUBERAY / "overlays" / overlay))


def documents(overlay: str) -> Documents:
    """The overlay's documents, to change as one likes."""
    return json.loads(rendered(overlay))


@pytest.fixture
def docs(overlay: str) -> Documents:
    return documents(overlay)


def of_kinds(docs: Documents, *kinds: str) -> Documents:
    return [doc for doc in docs if doc["kind"] in kinds]


def one(overlay: str, kind: str) -> dict[str, Any]:
    (doc,) = of_kinds(documents(overlay), kind)
    return doc


def test_overlays_are_all_of_each_machine_and_each_kind_of_work() -> None:
    machines, work = ("cpu", "gpu", "spot"), ("", "-cronjob", "-raycronjob", "-rayjob")
    assert sorted(machine + kind for machine in machines for kind in work) == OVERLAYS


def test_documents_are_valid(overlay: str, docs: Documents) -> None:
    for doc in docs:
        check(doc)
    kinds = {"": {"RayCluster"}, "-cronjob": {"RayCluster", "CronJob"}, "-rayjob": {"RayJob"}}
    own = kinds.get(overlay.removeprefix(overlay.partition("-")[0]), {"RayCronJob"})
    assert {doc["kind"] for doc in docs} == own | {"Namespace", "ServiceAccount", "NetworkPolicy"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH")
def test_kubectl_renders_the_same(overlay: str, docs: Documents) -> None:
    command = ["kubectl", "kustomize", str(KUBERAY / "overlays" / overlay)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def by_name(found: Documents) -> Documents:
        return sorted(found, key=lambda doc: (doc["kind"], doc["metadata"]["name"]))

    assert by_name(list(yaml.safe_load_all(made))) == by_name(docs)


@pytest.mark.parametrize(
    ("overlay", "kind", "path", "message"),
    [
        ("cpu", "RayCluster", "spec.enableInTreeAutoscalling", "enableInTreeAutoscalling"),
        ("cpu", "RayCluster", "spec.headGroupSpec.template.spec.serviceAcountName", "serviceAcountName"),
        ("cpu", "RayCluster", "spec.autoscalerOptions.securityContext.runAsNonroot", "runAsNonroot"),
        ("gpu-rayjob", "RayJob", "spec.entrypont", "entrypont"),
        ("gpu-rayjob", "RayJob", "spec.submitterPodTemplate.spec.restartpolicy", "restartpolicy"),
        ("spot-raycronjob", "RayCronJob", "spec.jobTemplate.rayClusterSpec.workerGroupSpec", "workerGroupSpec"),
        ("spot-raycronjob", "RayCronJob", "spec.concurrencyPolicy", "concurrencyPolicy"),
        ("cpu-cronjob", "CronJob", "spec.jobTemplate.spec.backofLimit", "backofLimit"),
        ("cpu", "NetworkPolicy", "spec.podSelecter", "podSelecter"),
    ],
)
def test_a_misspelt_key_is_found(overlay: str, kind: str, path: str, message: str) -> None:
    doc = one(overlay, kind)
    *above, last = path.split(".")
    place = doc
    for name in above:
        place = place[name]
    place[last] = "x"
    with pytest.raises(jsonschema.ValidationError, match=f"'{message}' was unexpected"):
        check(doc)


def crd_schemas(texts: list[str]) -> dict[str, dict[str, Any]]:
    """The strict schemas of version v1 that CRD files hold, by kind."""
    found = {}
    for spec in (yaml.safe_load(text)["spec"] for text in texts):
        made = strict(next(v["schema"]["openAPIV3Schema"] for v in spec["versions"] if v["name"] == "v1"))
        made["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which CRDs leave out
        found[spec["names"]["kind"]] = made
    return found


def test_crds_are_made_strict() -> None:
    ports = {"type": "array", "items": {"properties": {"port": {"x-kubernetes-int-or-string": True}}}}
    inner = {"type": "object", "properties": {"format": {"type": "string"}, "ports": ports}, "required": ["format"]}
    spec = {"properties": {"metadata": {"type": "object"}, "spec": inner}}
    version = {"name": "v1", "schema": {"openAPIV3Schema": spec}}
    made = crd_schemas([json.dumps({"spec": {"names": {"kind": "A"}, "versions": [version]}})])["A"]
    good: dict[str, Any] = {"metadata": {"name": "a"}, "spec": {"format": "x", "ports": [{"port": 1}, {"port": "b"}]}}
    jsonschema.validate(good, made)
    wrongs: list[dict[str, Any]] = [{"format": "x", "port": 1}, {}, {"format": "x", "ports": [{"p": 1}]}]
    for wrong in wrongs:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | {"spec": wrong}, made)


@pytest.mark.skipif("DAVAM_KUBERAY_CRDS" not in os.environ, reason="DAVAM_KUBERAY_CRDS names no folder of CRD files")
def test_documents_fit_kuberays_own_schemas(docs: Documents) -> None:
    found = crd_schemas([path.read_text() for path in Path(os.environ["DAVAM_KUBERAY_CRDS"]).glob("*.yaml")])
    for doc in of_kinds(docs, *SPECS):
        jsonschema.validate(doc, found[doc["kind"]])
        wrong = copy.deepcopy(doc)
        wrong["spec"]["entrypont"] = "x"
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, found[doc["kind"]])


def test_every_image_has_the_pinned_ray(docs: Documents) -> None:
    for doc in of_kinds(docs, "CronJob", *SPECS):
        tags = {
            container["image"].partition(":")[2]
            for template in pod_templates(doc).values()
            for container in template["spec"]["containers"]
        }
        assert tags <= {f"{RAY}-cpu", f"{RAY}-gpu"}
        if doc["kind"] in SPECS:
            assert cluster_spec(doc)["rayVersion"] == RAY


def test_the_head_takes_no_work_and_workers_start_from_none(docs: Documents) -> None:
    for doc in of_kinds(docs, *SPECS):
        spec = cluster_spec(doc)
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
        limits = [[group[f"{end}Replicas"] for end in ("min", "max")] for group in spec["workerGroupSpecs"]]
        assert limits == [[0, 4]]


def environment(doc: dict[str, Any], pod: str) -> dict[str, Any]:
    (container,) = pod_templates(doc)[pod]["spec"]["containers"]
    return {item["name"]: item.get("value") for item in container["env"]}


def test_gpus_are_asked_for_where_there_are_some(overlay: str, docs: Documents) -> None:
    machine = overlay.partition("-")[0]
    for doc in of_kinds(docs, *SPECS):
        templates = pod_templates(doc)
        (worker,) = templates["workers"]["spec"]["containers"]
        gpus = {end: worker["resources"][end].get("nvidia.com/gpu") for end in ("requests", "limits")}
        assert gpus == dict.fromkeys(("requests", "limits"), None if machine == "cpu" else "1")
        assert worker["image"].endswith("-cpu" if machine == "cpu" else "-gpu")
        assert environment(doc, "head")["DAVAM_WORKERS"] == "--workers 4 --wait-for-nodes-s 900" + (
            " --gpu" if machine != "cpu" else ""
        )
        tolerated = {item["key"] for item in templates["workers"]["spec"].get("tolerations", [])}
        spot = {"cloud.google.com/gke-spot"} if machine == "spot" else set()
        assert tolerated == (set() if machine == "cpu" else {"nvidia.com/gpu"}) | spot


SPOT_LABELS = {
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "karpenter.sh/capacity-type": "spot",
}


def test_the_head_is_never_on_a_spot_node_and_workers_prefer_one() -> None:
    templates = pod_templates(one("spot", "RayCluster"))
    head = templates["head"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = head["nodeSelectorTerms"]
    never = {rule["key"]: rule["values"] for rule in term["matchExpressions"] if rule["operator"] == "NotIn"}
    worker = templates["workers"]["spec"]["affinity"]["nodeAffinity"]
    assert worker.keys() == {"preferredDuringSchedulingIgnoredDuringExecution"}  # so others do when there are none
    rules = [
        rule
        for item in worker["preferredDuringSchedulingIgnoredDuringExecution"]
        for rule in item["preference"]["matchExpressions"]
    ]
    assert {rule["operator"] for rule in rules} == {"In"}
    assert never == {rule["key"]: rule["values"] for rule in rules} == {k: [v] for k, v in SPOT_LABELS.items()}


def test_pods_have_no_rights_that_they_do_not_need(docs: Documents) -> None:
    for doc in of_kinds(docs, "CronJob", *SPECS):
        contexts = [
            container["securityContext"]
            for template in pod_templates(doc).values()
            for container in template["spec"]["containers"]
        ]
        if doc["kind"] in SPECS:
            contexts.append(cluster_spec(doc)["autoscalerOptions"]["securityContext"])
        for context in contexts:
            assert context == {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
        submitter = pod_templates(doc).get("submitter")
        assert submitter is None or submitter["spec"]["automountServiceAccountToken"] is False
    accounts = {doc["metadata"]["name"]: doc for doc in of_kinds(docs, "ServiceAccount")}
    assert accounts["davam-worker"]["automountServiceAccountToken"] is False


def test_there_is_a_token_and_no_secret_in_any_file(docs: Documents) -> None:
    for doc in of_kinds(docs, *SPECS):
        assert cluster_spec(doc)["authOptions"] == {"mode": "token"}
    for doc in of_kinds(docs, "CronJob"):
        (container,) = pod_templates(doc)["submitter"]["spec"]["containers"]
        token = {item["name"]: item for item in container["env"]}["RAY_AUTH_TOKEN"]
        # The operator names the Secret by the cluster, which the address names as well.
        assert token["valueFrom"]["secretKeyRef"] == {"name": "davam", "key": "auth_token"}
        assert environment(doc, "submitter")["RAY_AUTH_MODE"] == "token"
        assert "--address=http://davam-head-svc:8265" in container["args"]
    text = json.dumps(docs)
    assert not re.search(r"AKIA|SECRET_ACCESS_KEY|0\.0\.0\.0|LoadBalancer|NodePort|hostNetwork", text)


def test_only_the_namespace_and_the_operator_come_in() -> None:
    spec = one("cpu", "NetworkPolicy")["spec"]
    operator = {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
    assert spec == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {}}]},
            {
                "from": [{"namespaceSelector": {}, "podSelector": operator}],
                "ports": [{"protocol": "TCP", "port": 8265}],
            },
        ],
    }


def shell_line(doc: dict[str, Any]) -> str:
    """What the head's shell is given: `ray job submit` joins its arguments; the operator has bash split them."""
    if doc["kind"] == "CronJob":
        args = pod_templates(doc)["submitter"]["spec"]["containers"][0]["args"]
        return shlex.join(args[args.index("--") + 1 :])
    entrypoint = doc["spec"].get("jobTemplate", doc["spec"])["entrypoint"]
    argv = subprocess.run(["bash", "-c", rf"printf '%s\0' {entrypoint}"], capture_output=True, text=True, check=True)
    return shlex.join(argv.stdout.removesuffix("\0").split("\0"))


def run_line(line: str, exit_code: int, folder: Path) -> tuple[int, list[str]]:
    """The line's exit code, and the words that its program is given, where the program ends with that code."""
    stub = folder / "python"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/words\nexit {exit_code}\n')
    stub.chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "DAVAM_WORKERS": "--workers 4 --gpu"}
    done = subprocess.run(line.replace("/app", str(folder)), shell=True, env=env, check=False)
    return done.returncode, (folder / "words").read_text().splitlines()


RETRAIN = (
    "pipelines/retrain.py --preset recommended --data s3://bucket/corpus --channel prod --store s3://bucket/davam "
    "--workers 4 --gpu"
)


@pytest.mark.parametrize("kind", ["RayCronJob", "CronJob"])
@pytest.mark.parametrize(("exit_code", "succeeds"), [(0, True), (10, True), (1, False), (2, False), (143, False)])
def test_a_kept_model_is_a_success_and_a_failure_is_not(
    kind: str, exit_code: int, succeeds: bool, tmp_path: Path
) -> None:
    line = shell_line(one(f"gpu-{kind.lower()}", kind))
    found, words = run_line(line, exit_code, tmp_path)
    assert ((found == 0), words) == (succeeds, RETRAIN.split())


def test_a_training_is_the_pipeline_on_the_corpus(tmp_path: Path) -> None:
    line = shell_line(one("gpu-rayjob", "RayJob"))
    found, words = run_line(line, 3, tmp_path)
    assert found == 3
    assert words[0] == "pipelines/full.py"
    assert (ROOT / words[0]).is_file()
    assert words[-5:] == ["--store", "s3://bucket/davam", "--workers", "4", "--gpu"]


def test_two_scheduled_runs_never_overlap() -> None:
    day_s = 24 * 3600
    cron = one("cpu-cronjob", "CronJob")["spec"]
    ray_cron = one("cpu-raycronjob", "RayCronJob")["spec"]
    assert cron["schedule"] == ray_cron["schedule"] == "0 3 * * *"
    assert cron["concurrencyPolicy"] == "Forbid"
    assert cron["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] < day_s
    # It has no concurrencyPolicy, and a retry would begin its time anew.
    assert ray_cron["jobTemplate"]["activeDeadlineSeconds"] < day_s
    assert "backoffLimit" not in ray_cron["jobTemplate"]


def test_the_document_names_what_is_there() -> None:
    text = (ROOT / "docs" / "clusters.md").read_text()
    named = set(re.findall(r"cluster/kuberay/overlays/([\w-]+)", text))
    assert named <= set(OVERLAYS)
    assert named
    assert set(re.findall(r"davam:([\d.]+)-", text)) == {RAY}
    for path in re.findall(r"\]\(([^)#]+)[)#]", text):
        assert (ROOT / "docs" / path).exists(), path
