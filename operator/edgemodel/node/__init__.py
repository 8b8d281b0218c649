"""What runs on a node for the node's own sake: the probe, and the agent that makes a Mac a node of the cluster.

The agent (`main`) is a kubelet of a few pages that runs no images: what a pod would have in a container is a process of
the machine's own, and only what an EdgeRuntime declares as one. `admission` decides what may run, `lifecycle` what
comes next, `status` what is told of it: pure functions. `agent` and `pods` carry it out.
"""
