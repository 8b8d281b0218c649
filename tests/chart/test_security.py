"""What the chart's pods may do, and what the operator may."""

from typing import Any

import pytest

from tests.chart.chart import BUCKET, VALUES, Helm, Manifest, one, pods, restricted_violations

READ = {"get", "list", "watch"}
OWN = READ | {"create", "patch", "delete"}


def permissions(role: Manifest) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("case", VALUES)
def test_every_pod_is_restricted(helm: Helm, case: str) -> None:
    found = dict(pods(helm.render(VALUES[case], crds=True, served=False)))
    assert {name: restricted_violations(pod) for name, pod in found.items()} == {name: [] for name in found}


def test_a_pod_that_is_not_restricted_is_found_out() -> None:
    pod: dict[str, Any] = {
        "hostNetwork": True,
        "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
        "containers": [{"name": "a", "securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}}}],
    }
    assert restricted_violations(pod) == [
        "hostNetwork",
        "volume host",
        "seccompProfile",
        "runAsNonRoot",
        "a: allowPrivilegeEscalation",
        "a: capabilities",
        "a: securityContext",
        "a: readOnlyRootFilesystem",
        "a: no limit of memory",
    ]


@pytest.mark.parametrize("case", VALUES)
def test_only_what_talks_to_the_api_has_a_token(helm: Helm, case: str) -> None:
    manifests = helm.render(VALUES[case], crds=True, served=False)
    with_token = {name for name, pod in pods(manifests) if pod["automountServiceAccountToken"]}
    assert with_token <= {"Deployment/edgemodel", "Job/edgemodel-builtins"}


@pytest.mark.parametrize("case", VALUES)
def test_no_role_reads_secrets_or_has_a_wildcard(helm: Helm, case: str) -> None:
    manifests = helm.render(VALUES[case], crds=True, served=False)
    roles = [manifest for manifest in manifests if manifest["kind"] in {"Role", "ClusterRole"}]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            assert "secrets" not in rule["resources"]
            assert not [word for words in rule.values() for word in words if "*" in word]
            assert not set(rule["verbs"]) & {"escalate", "bind", "impersonate", "deletecollection"} or (
                role["metadata"]["name"] == "edgemodel-edit"
            )


def test_the_operator_may_do_this_and_nothing_else(helm: Helm) -> None:
    assert permissions(one(helm.render(BUCKET), "ClusterRole", "edgemodel")) == {
        ("edgemodel.dev", "edgemodels"): READ,
        ("edgemodel.dev", "edgeruntimes"): READ,
        ("edgemodel.dev", "hardwareclasses"): READ,
        ("edgemodel.dev", "modelartifacts"): OWN,
        ("edgemodel.dev", "edgemodels/status"): {"patch"},
        ("edgemodel.dev", "modelartifacts/status"): {"patch"},
        ("edgemodel.dev", "edgemodels/finalizers"): {"update"},
        ("edgemodel.dev", "modelartifacts/finalizers"): {"update"},
        ("apps", "deployments"): OWN,
        ("apps", "daemonsets"): OWN,
        ("batch", "jobs"): OWN,
        ("", "services"): OWN,
        ("", "pods"): OWN,
        ("", "nodes"): READ | {"patch"},
        ("events.k8s.io", "events"): {"create"},
        ("", "namespaces"): {"get"},
    }
    assert permissions(one(helm.render(BUCKET), "Role", "edgemodel")) == {
        ("coordination.k8s.io", "leases"): {"get", "create", "patch"}
    }


def test_people_may_do_what_messages_tell_them_to(helm: Helm) -> None:
    assert permissions(one(helm.render(BUCKET), "ClusterRole", "edgemodel-edit")) == {
        ("edgemodel.dev", "edgemodels"): {"create", "update", "patch", "delete", "deletecollection"},
        ("edgemodel.dev", "modelartifacts"): {"delete"},
    }


def test_the_operator_takes_the_lease_that_it_may_take(helm: Helm) -> None:
    manifests = helm.render(BUCKET)
    create, keep = one(manifests, "Role", "edgemodel")["rules"]
    assert create["verbs"] == ["create"]
    (container,) = one(manifests, "Deployment", "edgemodel")["spec"]["template"]["spec"]["containers"]
    (lease,) = (variable["value"] for variable in container["env"] if variable["name"] == "EDGEMODEL_LEASE")
    assert keep["resourceNames"] == [lease]


def test_the_operator_sees_one_namespace_by_name(helm: Helm) -> None:
    role = one(helm.render(BUCKET), "ClusterRole", "edgemodel")
    (rule,) = (rule for rule in role["rules"] if "namespaces" in rule["resources"])
    assert rule["resourceNames"] == ["kube-system"]
