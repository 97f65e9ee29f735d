"""A pod of a manifest as options for podman, as far as podman can express it.

What differs: hostNetwork is the pod network (two nodes cannot share one machine's), a device
plugin's or a DRA driver's devices are ``--device``, and a model is an empty folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.container.pods import NULL_DEVICE, Pod, make_node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.container.enclosure import Enclosure

_RDMA_RESOURCES = ("rdma/", "nvidia.com/roce")


def container_options(
    spec: dict[str, Any], pod: Pod, enclosure: Enclosure
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options and the arguments for the only container of a pod spec."""
    (container,) = spec["containers"]
    assert "command" not in container  # it would replace the entrypoint
    options = [*pod.network(), *pod.sysfs()]
    options += [f"--env={entry['name']}={_value(entry)}" for entry in container.get("env", ())]
    security = {**spec.get("securityContext", {}), **container["securityContext"]}
    options += _security(security)
    # podman ignores --device beside --privileged, where every device may be opened.
    grant = "--volume" if security.get("privileged") else "--device"
    options += [f"{grant}={node}" for node in _devices(container["resources"], pod)]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    for mount in container.get("volumeMounts", ()):
        options.append(_volume(volumes[mount["name"]], mount, pod))
    if spec.get("shareProcessNamespace"):
        options.append("--pid=host")  # of the enclosure
    return (*options, *enclosure.with_cgroups), tuple(container["args"])


def _value(entry: dict[str, Any]) -> str:
    """Return the value of a variable; those that refer to other variables are not expressed."""
    value = str(entry["value"])
    assert "$(" not in value
    return value


def _security(context: dict[str, Any]) -> list[str]:
    options = []
    capabilities = context.get("capabilities", {})
    options += [f"--cap-drop={name}" for name in capabilities.get("drop", ())]
    options += [f"--cap-add={name}" for name in capabilities.get("add", ())]
    if context.get("privileged"):
        options.append("--privileged")
    if context.get("allowPrivilegeEscalation") is False:
        options.append("--security-opt=no-new-privileges")
    if context.get("readOnlyRootFilesystem"):
        options += ["--read-only", "--read-only-tmpfs=false"]
    if "runAsUser" in context:
        options.append(f"--user={context['runAsUser']}:{context.get('runAsGroup', 0)}")
    return options


def _devices(resources: dict[str, Any], pod: Pod) -> list[str]:
    """Return the device nodes that plugins hand out for limits, and drivers for claims."""
    limits = resources.get("limits", {})
    nodes = []
    for number in range(int(limits.get("nvidia.com/gpu", 0))):
        node = pod.folder / f"gpus/nvidia{number}"
        make_node(node, NULL_DEVICE)
        nodes.append(f"{node}:/dev/nvidia{number}")
    if resources.get("claims") or any(name.startswith(_RDMA_RESOURCES) for name in limits):
        for node in sorted(pod.devices().iterdir()):
            nodes.append(f"{node}:/dev/infiniband/{node.name}")
    return nodes


def _volume(volume: dict[str, Any], mount: dict[str, Any], pod: Pod) -> str:
    target = mount["mountPath"]
    if "emptyDir" in volume:
        return f"--mount=type=tmpfs,dst={target},tmpfs-mode=1777"
    path = volume.get("hostPath", {}).get("path")
    source: Path = pod.devices() if path == "/dev/infiniband" else pod.folder / volume["name"]
    source.mkdir(exist_ok=True)
    return f"--volume={source}:{target}{':ro' if mount.get('readOnly') else ''}"
