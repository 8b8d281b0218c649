"""What the chart makes of values: whole manifests for the main cases, and what it says of values that cannot be."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgemodel.core.objects import METRICS_PATH
from tests.chart.chart import BUCKET, CHART, EMBEDDED, HARDWARE, RUNTIMES, VALUES, Helm, HelmError, Values, one, pods

GOLDEN = Path(__file__).parent / "golden"


def env_of(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


@pytest.mark.parametrize("case", VALUES)
def test_renders_as_before(helm: Helm, case: str) -> None:
    """After a change that is meant: EDGEMODEL_WRITE_GOLDEN=1 pytest tests/chart, and read the diff."""
    text = helm.template(VALUES[case])
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("EDGEMODEL_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_lint_finds_nothing(helm: Helm) -> None:
    for values in VALUES.values():
        assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART, values=values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--set objectStore.bucket=NAME"),
        (
            {"objectStore": {"embedded": {"enabled": True}, "endpoint": "http://s3"}},
            "address of its own",
        ),
        ({"objectStore": {"bucket": "b-1", "credentials": {"accessKeyId": "a"}}}, "needs both"),
        (
            {
                "objectStore": {
                    "bucket": "b-1",
                    "existingSecret": "s",
                    "credentials": {"accessKeyId": "a", "secretAccessKey": "b"},
                }
            },
            "exclude each other",
        ),
        ({"objectStore": {"bucket": "b-1", "existingSecret": "s", "namespaces": ["a"]}}, "cannot copy the Secret"),
        ({"objectStore": {"bucket": "b-1", "namespaces": ["a"]}}, "nothing to put into them"),
        ({"objectStore": {"bucket": "b-1"}, "modelPods": {"serviceAccount": {"create": True}}}, "where to create it"),
    ],
)
def test_says_what_to_set(helm: Helm, values: Values, message: str) -> None:
    with pytest.raises(HelmError, match=message):
        helm.template(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objectStor": {}}, "additional properties 'objectStor' not allowed"),
        ({"objectStore": {"embedded": {"persistance": {}}}}, "additional properties 'persistance' not allowed"),
        ({"operator": {"replicas": "two"}}, "/operator/replicas"),
        ({"operator": {"replicas": 0}}, "/operator/replicas"),
        ({"objectStore": {"bucket": "Not_A_Bucket"}}, "/objectStore/bucket"),
        ({"objectStore": {"endpoint": "minio:9000"}}, "/objectStore/endpoint"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ],
)
def test_the_schema_refuses(helm: Helm, values: Values, message: str) -> None:
    with pytest.raises(HelmError, match=message):
        helm.template(values)


def test_each_value_is_described_and_in_the_readme() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    readme = (CHART / "README.md").read_text(encoding="utf-8")

    def check(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        assert schema["additionalProperties"] is False, path
        assert set(values) == set(schema["properties"]) - {"global"}, path
        for key, value in values.items():
            inner, here = schema["properties"][key], f"{path}{key}"
            assert inner["description"], here
            if "repository" in inner.get("properties", {}):
                assert f"`{here}.{{registry,repository,tag}}`" in readme
            elif "properties" in inner and key != "resources":
                check(inner, value, f"{here}.")
            else:
                assert f"| `{here}` | `{json.dumps(value)}` |" in readme

    check(schema, yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")), "")


def test_the_readme_names_what_comes_along() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    named = {name for name in HARDWARE if not name.startswith("snapdragon-")} | RUNTIMES
    assert {name for name in named if f"`{name}`" not in readme.partition("## Values")[0]} == set()


def test_the_operator_is_told_of_a_store_without_keys(helm: Helm) -> None:
    deployment = one(helm.render(BUCKET), "Deployment", "edgemodel")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    env = env_of(container)
    assert env["EDGEMODEL_STORE_URI"] == "s3://artifacts"
    assert not env.keys() & {"EDGEMODEL_STORE_ENDPOINT", "EDGEMODEL_STORE_CREDENTIALS", "EDGEMODEL_STORE_SECRET"}


def test_the_embedded_store_is_where_the_operator_looks(helm: Helm) -> None:
    manifests = helm.render(EMBEDDED)
    deployment = one(manifests, "Deployment", "edgemodel")
    env = env_of(deployment["spec"]["template"]["spec"]["containers"][0])
    service = one(manifests, "Service", "edgemodel-store")
    port = service["spec"]["ports"][0]["port"]
    assert env["EDGEMODEL_STORE_ENDPOINT"] == f"http://edgemodel-store.edgemodel-system.svc:{port}"
    store = one(manifests, "Deployment", "edgemodel-store")["spec"]["template"]["spec"]
    bucket = env["EDGEMODEL_STORE_URI"].removeprefix("s3://")
    assert f"/data/buckets/{bucket}" in store["initContainers"][0]["command"]
    assert store["containers"][0]["args"][-1] == "/data/buckets"


def test_random_keys_are_the_same_in_all_copies(helm: Helm) -> None:
    values = {"objectStore": {"embedded": {"enabled": True}, "namespaces": ["retail", "factory", "edgemodel-system"]}}
    secrets = [manifest for manifest in helm.render(values) if manifest["kind"] == "Secret"]
    assert [one["metadata"]["namespace"] for one in secrets] == ["edgemodel-system", "retail", "factory"]
    assert len({json.dumps(one["stringData"], sort_keys=True) for one in secrets}) == 1
    assert len(secrets[0]["stringData"]["AWS_SECRET_ACCESS_KEY"]) == 40


def test_no_secrets_are_made_for_pods_with_an_identity(helm: Helm) -> None:
    manifests = helm.render(VALUES["pod-identity"])
    assert not [manifest for manifest in manifests if manifest["kind"] == "Secret"]
    accounts = {
        (one["metadata"]["namespace"], one["metadata"]["name"]) for one in manifests if one["kind"] == "ServiceAccount"
    }
    assert accounts == {("edgemodel-system", "edgemodel"), ("retail", "edgemodel")}


def test_the_builtins_wait_for_their_crds_the_first_time_only(helm: Helm) -> None:
    first = helm.render(BUCKET, crds=True, served=False)
    assert not [manifest for manifest in first if manifest["kind"] in {"EdgeRuntime", "HardwareClass"}]
    job = one(first, "Job", "edgemodel-builtins")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install"
    data = one(first, "ConfigMap", "edgemodel-builtins")["data"]
    applied = [json.loads(text) for name, text in data.items() if name.endswith(".json")]

    later = [one for one in helm.render(BUCKET) if one["kind"] in {"EdgeRuntime", "HardwareClass"}]
    for manifest in applied:
        annotations = manifest["metadata"].pop("annotations")
        assert annotations == {
            "meta.helm.sh/release-name": "edgemodel",
            "meta.helm.sh/release-namespace": "edgemodel-system",
        }
        assert manifest in later
    assert len(applied) == len(later) == len(HARDWARE) + len(RUNTIMES)


def test_one_image_tag_and_one_registry_are_enough_for_a_mirror(helm: Helm) -> None:
    values = BUCKET | {
        "image": {"registry": "mirror.example/edge", "tag": "9.9"},
        "images": {"llamacpp": {"registry": "other.example", "repository": "a/b", "tag": "1"}},
    }
    manifests = helm.render(values)
    images = {
        container["image"]
        for _, pod in pods(manifests)
        for container in [*pod.get("initContainers", ()), *pod["containers"]]
    }
    assert images == {"mirror.example/edge/operator:9.9"}
    spec = one(manifests, "EdgeRuntime", "llamacpp")["spec"]
    assert spec["pipeline"]["image"] == "mirror.example/edge/llamacpp-pipeline:9.9"
    assert spec["serving"]["image"] == "other.example/a/b:1"


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_a_disruption_budget_only_where_it_can_be_kept(helm: Helm, replicas: int, budgets: int) -> None:
    manifests = helm.render(BUCKET | {"operator": {"replicas": replicas}})
    assert len([one for one in manifests if one["kind"] == "PodDisruptionBudget"]) == budgets


@pytest.mark.parametrize(
    ("endpoint", "port"), [("", 443), ("http://s3.example", 80), ("https://s3.example:9000", 9000)]
)
def test_the_operator_may_reach_its_store(helm: Helm, endpoint: str, port: int) -> None:
    values = {"objectStore": {"bucket": "artifacts", "endpoint": endpoint}, "networkPolicy": {"enabled": True}}
    policy = one(helm.render(values), "NetworkPolicy", "edgemodel")
    assert {"ports": [{"port": port, "protocol": "TCP"}]} in policy["spec"]["egress"]


def test_the_pod_monitor_reads_the_path_that_the_operator_writes(helm: Helm) -> None:
    (endpoint,) = one(helm.render(EMBEDDED), "PodMonitor", "edgemodel-serve")["spec"]["podMetricsEndpoints"]
    label = f"__meta_kubernetes_pod_annotation_{re.sub('[^a-zA-Z0-9_]', '_', METRICS_PATH)}"
    assert endpoint["relabelings"] == [{"sourceLabels": [label], "regex": "(.+)", "targetLabel": "__metrics_path__"}]


def test_the_store_is_reached_by_the_operator_and_its_pods_only(helm: Helm) -> None:
    policy = one(helm.render(EMBEDDED), "NetworkPolicy", "edgemodel-store")
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == [{"port": "s3", "protocol": "TCP"}]
    assert rule["from"][1] == {
        "namespaceSelector": {},
        "podSelector": {"matchExpressions": [{"key": "edgemodel.dev/role", "operator": "Exists"}]},
    }
