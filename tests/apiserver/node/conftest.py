"""A cluster with one node: the agent."""

from collections.abc import Iterator

import pytest

from hack.cluster import binaries, controlplane
from hack.cluster.certificates import Authority
from tests.apiserver.node.cluster import ADDRESS, POD_ADDRESSES, Cluster, control_plane, prepare, publish
from tests.mac_node import NODE, Agent
from tests.s3 import find_versitygw, new_bucket, serve


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server, controllers, a scheduler, a store; and the agent, which has joined by a bootstrap token."""
    if binaries.built() is None or find_versitygw() is None:
        pytest.skip("the Kubernetes binaries are not built: `python3 -m hack.cluster binaries`")
    folder = tmp_path_factory.mktemp("node")
    with controlplane.apiserver(folder) as kubeconfig, serve(folder) as server:
        authority = Authority(folder / "certificates")
        agent = Agent(folder / "agent")
        cluster = Cluster(kubeconfig, authority, new_bucket(server), agent)
        publish(cluster.store, folder / "artifact", "weights 1")
        prepare(cluster)
        with control_plane(kubeconfig, authority, folder):
            agent.join(cluster.server, authority.root.certificate, ADDRESS, f"{POD_ADDRESSES[0]}-{POD_ADDRESSES[-1]}")
            agent.start()
            try:
                cluster.wait("the node is ready", lambda: cluster.node_is("True"))
                cluster.kubectl(
                    "label", "node", NODE, "example.com/test-mac=yes", "hardware.edgemodel.dev/test-mac=true"
                )
                cluster.wait("its port's certificate", lambda: approve_serving(cluster), 20)
                yield cluster
                assert "Traceback" not in agent.log.read_text()
            finally:
                print(agent.log.read_text()[-8000:])
                if agent.running:
                    agent.end()
                agent.command("leave")


def approve_serving(cluster: Cluster) -> bool:
    """Approves the certificate that the agent asks for its port, as an admin does."""
    requests = [
        each["metadata"]["name"]
        for each in cluster.all("csr")
        if each["spec"]["signerName"] == "kubernetes.io/kubelet-serving"
    ]
    for name in requests:
        cluster.kubectl("certificate", "approve", name)
    return bool(requests)
