"""A Kubernetes cluster for development and tests, on whatever machine this is.

Where a Docker engine answers, the cluster is kind's. Elsewhere, on Linux as root, it is the real components, each a
process of this host. What uses the cluster sees the same in both: a kubeconfig, and `load` to bring images to the
nodes.

Everything that is slow to make is kept in one cache, keyed by the content that went into it (see cache.py). The
modules import downwards: cli -> images, kind, native -> controlplane -> binaries, packages -> cache -> shell.
"""
