"""Pod Security `restricted`, as https://kubernetes.io/docs/concepts/security/pod-security-standards/ says it."""

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = ("RuntimeDefault", "Localhost")


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """What `restricted` has against a pod's spec."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    for volume in pod.get("volumes", ()):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {kind}"
    whole = pod.get("securityContext", {})
    if whole.get("sysctls") or whole.get("seLinuxOptions") or whole.get("windowsOptions"):
        yield "sysctls, SELinux or Windows options of the pod"
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        yield from (f"container {container['name']}: {found}" for found in _of_container(container, whole))


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities.drop"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runAsUser"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield "seccompProfile"
    if own.get("procMount", "Default") != "Default" or own.get("seLinuxOptions") or own.get("windowsOptions"):
        yield "procMount, SELinux or Windows options"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "hostPort"
    actions = [container.get(probe, {}) for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    actions += container.get("lifecycle", {}).values()
    if any(action.get(how, {}).get("host") for action in actions for how in ("httpGet", "tcpSocket")):
        yield "a probe's or a handler's host"
