"""The room between the controllers and Kubernetes; the only one that knows kopf, and it knows nothing of EdgeModels.

A controller declares what it watches (`cache.Watch`) and gives a coroutine for a key. kopf keeps the watch streams
alive and feeds the `cache.Cache`; a changed object wakes keys on a `queue.WorkQueue`; a key's reconcile reads the
cache, decides, and writes through the `applier.Applier`, which writes only what differs. `runtime.Runtime` puts these
together with a lease, health, metrics and logs.
"""
