"""EdgeModel, runtime and artifact in; the objects in the cluster out."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.artifact import ModelArtifactSpec
from tests.golden.cases import CASES, manifests, pod_spec
from tests.golden.conftest import Golden
from tests.golden.restricted import violations

WHAT = ("resolver-pod", "modelartifact", "job", "workload", "service")
FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "add-a-runtime.md"


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("case", CASES)
def test_manifest_is_the_golden_one(case: str, what: str, golden: Golden) -> None:
    golden(f"{case}.{what}", manifests(case)[what])


def test_no_golden_file_is_left_over() -> None:
    expected = {f"{case}.{what}" for case in CASES for what in WHAT}
    assert {path.name.removesuffix(".yaml") for path in FOLDER.glob("*.yaml")} == expected


PODS = [(case, what) for case in CASES for what in ("resolver-pod", "job", "workload")]


def pod(case: str, what: str) -> dict[str, Any]:
    found = pod_spec(manifests(case)[what])
    assert found is not None
    return found


@pytest.mark.parametrize(("case", "what"), PODS)
def test_pod_passes_pod_security_restricted(case: str, what: str) -> None:
    assert list(violations(pod(case, what))) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hostNetwork", {"hostNetwork": True}),
        ("volume h: hostPath", {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}),
        ("container serve: runAsNonRoot", {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}),
        ("container serve: seccompProfile", {"securityContext": {"runAsNonRoot": True}}),
    ],
)
def test_check_of_pod_security_finds(name: str, change: dict[str, Any]) -> None:
    assert name in list(violations(pod("deployment", "workload") | change))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("allowPrivilegeEscalation", {"allowPrivilegeEscalation": None}),
        ("capabilities.drop", {"capabilities": {"drop": ["NET_RAW"]}}),
        ("capabilities.add", {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}),
        ("privileged", {"privileged": True}),
        ("runAsUser", {"runAsUser": 0}),
    ],
)
def test_check_of_pod_security_finds_in_a_container(name: str, change: dict[str, Any]) -> None:
    changed = copy.deepcopy(pod("deployment", "workload"))
    changed["initContainers"][0]["securityContext"] |= change
    assert list(violations(changed)) == [f"container fetch: {name}"]


@pytest.mark.parametrize(("case", "what"), PODS)
def test_pod_has_no_token_of_the_api_and_cannot_write_its_image(case: str, what: str) -> None:
    found = pod(case, what)
    assert found["automountServiceAccountToken"] is False
    for container in [*found.get("initContainers", ()), *found["containers"]]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(("case", "what"), PODS)
def test_every_container_says_what_memory_it_may_take(case: str, what: str) -> None:
    found = pod(case, what)
    for container in [*found.get("initContainers", ()), *found["containers"]]:
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"]["cpu"]


@pytest.mark.parametrize(("case", "what"), PODS)
def test_every_mount_has_its_volume_and_every_volume_is_mounted(case: str, what: str) -> None:
    found = pod(case, what)
    containers = [*found.get("initContainers", ()), *found["containers"]]
    mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in found["volumes"]}
    for container in containers:
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))


@pytest.mark.parametrize(("case", "what"), PODS)
def test_every_volume_that_grows_is_bounded(case: str, what: str) -> None:
    for volume in pod(case, what)["volumes"]:
        assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize(("case", "what"), PODS)
def test_every_variable_is_set_once(case: str, what: str) -> None:
    for container in pod(case, what)["containers"]:
        names = [variable["name"] for variable in container["env"]]
        assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("case", CASES)
def test_every_variable_is_in_the_page_for_who_adds_a_runtime(case: str) -> None:
    (job,), (serve,) = pod(case, "job")["containers"], pod(case, "workload")["containers"]
    own = {"LEVEL", "OTHER", "CUDA_VISIBLE", "LLAMA_ARG_NO_WEBUI"}
    names = {variable["name"] for container in (job, serve) for variable in container["env"]} - own
    assert {name for name in names if f"`{name}`" not in PAGE.read_text(encoding="utf-8")} == set()


@pytest.mark.parametrize("case", CASES)
def test_serving_pod_never_sees_the_source_or_its_secret(case: str) -> None:
    text = json.dumps(pod(case, "workload"))
    assert "EDGEMODEL_SOURCE" not in text
    assert "source-credentials" not in text


@pytest.mark.parametrize("case", CASES)
def test_resolver_never_sees_the_store(case: str) -> None:
    assert "EDGEMODEL_STORE" not in json.dumps(pod(case, "resolver-pod"))


@pytest.mark.parametrize("case", CASES)
def test_weights_are_read_only_to_what_serves_them(case: str) -> None:
    (serve,) = pod(case, "workload")["containers"]
    (model,) = [mount for mount in serve["volumeMounts"] if mount["name"] == "model"]
    assert model["readOnly"] is True


@pytest.mark.parametrize("case", CASES)
def test_service_selects_the_pods_of_the_workload(case: str) -> None:
    made = manifests(case)
    labels = made["workload"]["spec"]["template"]["metadata"]["labels"]
    assert made["service"]["spec"]["selector"].items() <= labels.items()
    assert made["workload"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["edgemodel.dev/artifact"] == made["modelartifact"]["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_old_pods_serve_until_the_new_ones_answer(case: str) -> None:
    """But where they hold a device: it may be the only one, and the new ones would wait for it for ever."""
    spec = manifests(case)["workload"]["spec"]
    surge = 0 if case == "accelerator" else 1
    strategy = spec.get("strategy") or spec["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1 - surge, "maxSurge": surge}}


@pytest.mark.parametrize("case", CASES)
def test_old_pods_go_first_where_that_is_asked_for(case: str) -> None:
    spec = manifests(case, rollout="Replace")["workload"]["spec"]
    strategy = spec.get("strategy") or spec["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}


@pytest.mark.parametrize("case", CASES)
def test_children_go_with_what_they_were_made_for(case: str) -> None:
    made = manifests(case)
    owners = {what: [owner["kind"] for owner in made[what]["metadata"].get("ownerReferences", ())] for what in WHAT}
    assert owners == {
        "resolver-pod": ["EdgeModel"],
        "modelartifact": [],
        "job": ["ModelArtifact"],
        "workload": ["EdgeModel"],
        "service": ["EdgeModel"],
    }


@pytest.mark.parametrize("case", CASES)
def test_record_is_one_that_the_operator_can_read_back(case: str) -> None:
    record = manifests(case)["modelartifact"]
    assert ModelArtifactSpec.model_validate(record["spec"]).dump() == record["spec"]
    assert record["metadata"]["name"] == record["spec"]["key"]


def test_job_that_ran_out_of_memory_gets_twice_as_much() -> None:
    (container,) = pod("daemonset", "job")["containers"]
    # 2 x (66 000 000 + 4 x 512 x (2 x 12 x 512 + 16 x 384) + 1536 MiB), in MiB
    assert container["resources"]["limits"]["memory"] == "3270Mi"
