"""The resources that a node deals with."""

from edgemodel.api import GROUP, VERSION
from edgemodel.engine.events import EVENTS
from edgemodel.engine.lease import LEASES
from edgemodel.engine.objects import Resource
from edgemodel.node.identity import REQUESTS
from edgemodel.node.server import ACCESS_REVIEWS, TOKEN_REVIEWS

NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SECRETS = Resource("", "v1", "secrets", "Secret")
RUNTIMES = Resource(GROUP, VERSION, "edgeruntimes", "EdgeRuntime", namespaced=False)

ALL = (NODES, PODS, SECRETS, RUNTIMES, LEASES, EVENTS, REQUESTS, ACCESS_REVIEWS, TOKEN_REVIEWS)
