"""What runs on a node for the node's own sake: the probe, which tells what the node is made of."""
