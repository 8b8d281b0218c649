"""The Node controller: keeps true what a node's labels say of its hardware and of its hardware classes."""

from edgemodel.controllers.context import Context, node_facts
from edgemodel.controllers.resources import BY_NODE
from edgemodel.core.facts import is_probed, probed_labels
from edgemodel.core.hardware import CLASS_LABEL_DOMAIN, HARDWARE_LABEL, classes_of, hardware_labels
from edgemodel.core.problem import termination_message
from edgemodel.engine.objects import Key, Ref


class NodeController:
    """Reconciles the labels of Nodes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, key: Key) -> None:
        """Labels one node with what the probe found and with its classes, and takes labels that no longer hold."""
        node = self._context.cache.get("Node", "", key.name)
        if node is None:
            return
        labels: dict[str, str] = node["metadata"].get("labels", {})
        probed = self._probed(key.name)
        if probed is None:  # there is no probe, or it is only about to look: what it found last stays
            probed = {name: value for name, value in labels.items() if is_probed(name)}
        others = {name: value for name, value in labels.items() if not is_probed(name)}
        facts = node_facts(node | {"metadata": node["metadata"] | {"labels": others | probed}})
        wanted = probed | hardware_labels(classes_of(facts, self._context.landscape().classes.values()))
        ours = {name: value for name, value in labels.items() if _is_ours(name)}
        if ours == wanted:
            return
        change = {name: None for name in ours if name not in wanted} | wanted
        await self._context.client.merge(Ref("Node", "", key.name), {"metadata": {"labels": change}})

    def _probed(self, node: str) -> dict[str, str] | None:
        """The labels for what the probe found on the node; None if it has not said anything."""
        index = f"{self._context.settings.namespace}/{node}"
        for ref in self._context.cache.by_index("Pod", BY_NODE, index):
            said = termination_message(self._context.cache.get(*ref) or {})
            if said and isinstance(said.get("facts"), dict):
                return probed_labels({str(name): str(value) for name, value in said["facts"].items()})
        return None


def _is_ours(label: str) -> bool:
    return label == HARDWARE_LABEL or label.startswith(f"{CLASS_LABEL_DOMAIN}/") or is_probed(label)
