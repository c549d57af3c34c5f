"""What a pod asks for, read from its object: a ``PodShape``, or why it cannot be said. Pure, and total.

Amounts are those that kube-scheduler subtracts from a node: the sum of containers and sidecars, or the hungriest moment of
the init containers, plus the overhead (``PodRequests`` in ``k8s.io/component-helpers``). Accelerators are asked for in many ways;
``aggregator.scores.accelerators`` knows them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from aggregator.scores.accelerators import Devices, devices_of
from aggregator.scores.plain import dicts_of, mapping_of, text_of
from aggregator.scores.quantity import NANO, parse_nano
from aggregator.scores.values import WHOLE, PodShape

MAX_DEVICES = 256
"""That one pod may ask for; no node has more, time-sliced ones included."""

MAX_MODELS = 16
"""Device models taken from one pod's selectors."""

MAX_MODEL = 128
"""Characters of a model's name."""

MODEL_LABELS = (
    "nvidia.com/gpu.product",
    "node.koordinator.sh/gpu-model",
    "amd.com/gpu.product-name",
    "node.kubernetes.io/npu.chip.name",
)
"""Of nodes, that name the model of their devices; the first one that is there counts."""

_LARGEST = 10**9
"""A million cores, or so many MiB; what asks for more fits nowhere all the same."""

Amounts = dict[str, int]
"""By resource, in billionths."""


class Passed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A pod whose wish for devices cannot be told as a shape; what it takes of a node besides."""

    reason: str
    """For people."""
    cpu_milli: int = 0
    memory_mib: int = 0
    gpu_count: int = 0
    """Devices that it sits on, by an unknown share each; 0: none, or not known."""
    gpu_memory_mib: int = 0
    """That it takes of each, where it asks by memory."""


Ask = PodShape | Passed


def ask_of(pod: Mapping[str, Any], *, device_memory_mib: int = 0) -> Ask:
    """What one Pod object asks for; never raises.

    Args:
        pod: as the API server or a scheduler's extender call has it.
        device_memory_mib: of one device, where the cluster's devices are alike: then a wish for so much memory is a share.
    """
    spec = mapping_of(pod.get("spec"))
    amounts, wrong = _amounts(spec)
    cpu_milli = _ceil(amounts.get("cpu", 0), NANO // 1000)
    memory_mib = _ceil(amounts.get("memory", 0), NANO * 2**20)

    def passed(reason: str, devices: Devices | None = None) -> Passed:
        return Passed(
            reason=reason,
            cpu_milli=cpu_milli,
            memory_mib=memory_mib,
            gpu_count=min(devices.count, MAX_DEVICES) if devices else 0,
            gpu_memory_mib=devices.memory_mib if devices else 0,
        )

    if wrong:
        return passed(wrong)
    devices = devices_of(amounts, mapping_of(mapping_of(pod.get("metadata")).get("annotations")))
    if devices.trouble:
        return passed(devices.trouble, devices)
    if not devices.count and _claims(spec):
        return passed(
            "asks for devices by resource claims: what they are is not in the pod but in its ResourceClaims"
        )
    if devices.count > MAX_DEVICES:
        return passed(f"asks for {devices.count} devices: no node has more than {MAX_DEVICES}")
    milli = devices.milli
    if devices.memory_mib:
        if not device_memory_mib:
            return passed(
                f"asks for {devices.memory_mib} MiB of a device's memory: which share that is depends on the device; "
                "ask by percent",
                devices,
            )
        milli = max(milli, -(-devices.memory_mib * WHOLE // device_memory_mib))
    if milli > WHOLE or (milli < WHOLE and devices.count > 1):
        return passed(
            f"asks for {devices.count} devices and {milli / 10:g} % of each: only one device can be shared",
            devices,
        )
    return PodShape(
        cpu_milli=cpu_milli,
        memory_mib=memory_mib,
        gpu_count=devices.count,
        gpu_milli=milli if devices.count else 0,
        resource=devices.resource,
        models=_models(spec) if devices.count else (),
    )


def model_name(text: str) -> str:
    """A device model as the labels of nodes write it: NVML says ``NVIDIA A100-SXM4-80GB``, the label has dashes."""
    return "-".join(text[:MAX_MODEL].split())


def model_of(labels: Mapping[str, str]) -> str:
    """The model that a node's labels name; empty: none."""
    return next((model_name(labels[each]) for each in MODEL_LABELS if labels.get(each)), "")


def _amounts(spec: Mapping[str, Any]) -> tuple[Amounts, str]:
    """All that the pod asks for, by resource, and what is wrong with it; a wrong amount counts as none."""
    wrong: list[str] = []
    init: Amounts = {}
    sidecars: Amounts = {}
    for each in dicts_of(spec.get("initContainers")):
        wants = _of_container(each, wrong)
        if each.get("restartPolicy") == "Always":
            sidecars = _sum(sidecars, wants)
            wants = sidecars
        else:
            wants = _sum(sidecars, wants)
        init = _max(init, wants)
    total = sidecars
    for each in dicts_of(spec.get("containers")):
        total = _sum(total, _of_container(each, wrong))
    total = _max(total, init)
    if "resources" in spec:
        # For the pod as a whole: in place of what its containers say of cpu and memory.
        whole = _of_container(spec, wrong)
        total = total | {name: whole[name] for name in ("cpu", "memory") if name in whole}
    overhead = {
        name: _amount(name, value, wrong)
        for name, value in mapping_of(spec.get("overhead")).items()
    }
    return _sum(total, overhead), wrong[0] if wrong else ""


def _of_container(container: Mapping[str, Any], wrong: list[str]) -> Amounts:
    """Where only a limit is given, that is the request too, as the API server fills it in."""
    resources = mapping_of(container.get("resources"))
    asked = {**mapping_of(resources.get("limits")), **mapping_of(resources.get("requests"))}
    return {str(name): _amount(name, value, wrong) for name, value in asked.items()}


def _amount(name: Any, value: Any, wrong: list[str]) -> int:
    amount = parse_nano(value)
    if amount is None or amount < 0:
        wrong.append(f"asks for {str(value)[:40]!r} of {str(name)[:80]}: that is no amount")
        return 0
    return amount


def _sum(one: Amounts, other: Amounts) -> Amounts:
    if not one or not other:
        return one or other
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _max(one: Amounts, other: Amounts) -> Amounts:
    if not one or not other:
        return one or other
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _ceil(amount: int, unit: int) -> int:
    return min(-(-amount // unit), _LARGEST)


def _claims(spec: Mapping[str, Any]) -> bool:
    return bool(dicts_of(spec.get("resourceClaims")))


def _models(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that a pod's selectors allow, where they say so plainly: by ``=`` or ``In``; else any."""
    if "nodeSelector" not in spec and "affinity" not in spec:
        return ()
    selector = mapping_of(spec.get("nodeSelector"))
    named = {
        model_name(text_of(selector[each])) for each in MODEL_LABELS if text_of(selector.get(each))
    }
    affinity = mapping_of(mapping_of(spec.get("affinity")).get("nodeAffinity"))
    required = mapping_of(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    # The terms are alternatives: one that names no model allows any.
    terms = [_models_of_term(each) for each in dicts_of(required.get("nodeSelectorTerms"))]
    allowed = set().union(*terms) if terms and all(terms) else set()
    models = (named & allowed or named) if named else allowed
    return tuple(sorted(models)) if len(models) <= MAX_MODELS else ()


def _models_of_term(term: Mapping[str, Any]) -> set[str]:
    """Of the first requirement that lists models; the others can only narrow it."""
    for each in dicts_of(term.get("matchExpressions")):
        if each.get("key") in MODEL_LABELS and each.get("operator") == "In":
            return {model_name(text_of(one)) for one in _texts(each.get("values"))} - {""}
    return set()


def _texts(value: Any) -> Iterable[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
