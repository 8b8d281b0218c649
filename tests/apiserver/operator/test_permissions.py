"""The operator under the roles that the chart gives it, and no more: all that it does is allowed."""

import signal
from collections.abc import Iterator

import pytest

from hack.cluster import binaries
from tests.apiserver.operator.test_life import gone, ready, variant
from tests.apiserver.operator.world import Place, World, edge_model, wait
from tests.chart.chart import BUCKET, Helm

SYSTEM = "edgemodel-system"
ACCOUNT = {
    "Impersonate-User": f"system:serviceaccount:{SYSTEM}:edgemodel",
    "Impersonate-Group": "system:authenticated",
}
KINDS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
NODE = {
    "apiVersion": "v1", "kind": "Node",
    "metadata": {"name": "another", "labels": {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}},
}  # fmt: skip


@pytest.fixture
def place(world: World) -> Iterator[Place]:
    """A place whose operator is the chart's ServiceAccount, and keeps the chart's lease."""
    world.new_namespace(SYSTEM)
    roles = [one for one in Helm(binaries.one("helm")).render(BUCKET) if one["kind"] in KINDS]
    assert len(roles) == len(KINDS) + 2, "the operator's, and two for people"
    for role in roles:
        world.apply(role)
    with world.place(EDGEMODEL_LEASE="edgemodel", EDGEMODEL_NAMESPACE=SYSTEM) as place:
        place.api_proxy.impersonate = ACCOUNT
        yield place
        world.delete(NODE)
        assert place.complaints() == []
        assert place.api_proxy.forbidden == []


def test_a_whole_life_is_allowed(world: World, place: Place) -> None:
    """Everything that it ever makes, changes and deletes; then another takes its lease over."""
    operator = place.start()
    world.apply(edge_model("model", place.namespace))
    ready(place)
    wait("an Event", lambda: "Serving" in [event["reason"] for event in world.events(place.namespace, "model")])
    world.apply(NODE)
    wait(
        "a label", lambda: (world.get("Node", "", "another") or {})["metadata"]["labels"].get("edgemodel.dev/hardware")
    )
    operator.kill(signal.SIGTERM)
    place.start()
    world.apply(edge_model("model", place.namespace, variants=[variant(perNode=True)]))
    wait("no Deployment any more", lambda: place.all("DaemonSet") and not place.all("Deployment"))
    world.delete(edge_model("model", place.namespace))
    wait("nothing left", lambda: gone(place), timeout=60)
    lease = world.get("Lease", SYSTEM, "edgemodel")
    assert lease
    assert lease["spec"]["leaseTransitions"] > 1
