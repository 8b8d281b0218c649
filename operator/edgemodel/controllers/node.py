"""The Node controller: keeps the hardware labels of a node true."""

from edgemodel.controllers.context import Context, node_facts
from edgemodel.core.hardware import CLASS_LABEL_DOMAIN, HARDWARE_LABEL, classes_of, hardware_labels
from edgemodel.engine.objects import Key, Ref


class NodeController:
    """Reconciles the labels of Nodes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, key: Key) -> None:
        """Labels one node with its classes, and takes labels of classes that it is no longer of."""
        node = self._context.cache.get("Node", "", key.name)
        if node is None:
            return
        labels = node["metadata"].get("labels", {})
        wanted = hardware_labels(classes_of(node_facts(node), self._context.landscape().classes.values()))
        ours = {
            name: value
            for name, value in labels.items()
            if name == HARDWARE_LABEL or name.startswith(f"{CLASS_LABEL_DOMAIN}/")
        }
        if ours == wanted:
            return
        change = {name: None for name in ours if name not in wanted} | wanted
        await self._context.client.merge(Ref("Node", "", key.name), {"metadata": {"labels": change}})
