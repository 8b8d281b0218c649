"""Does this object need a write? Pure.

The API server fills in defaults, writes quantities in its own way and keeps what others add, so "equal" is the wrong
question. Two others are asked: did *we* change our mind (a hash of what we want, kept in an annotation), and did
somebody change what is ours (some field that we want is not as we want it)?
"""

import hashlib
import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from edgemodel.engine.objects import Object

APPLIED = "edgemodel.dev/applied"
"""The annotation with the hash of what was last applied."""

_MERGE_KEYS = (
    ("mountPath",), ("devicePath",), ("containerPort", "protocol"), ("port", "protocol"), ("uid",), ("name",),
    ("type",), ("ip",), ("topologyKey", "whenUnsatisfiable"),
)  # fmt: skip
"""By which fields the API merges lists of objects; the more telling ones first, for volume mounts have names too."""
_DEFAULTS = {"protocol": "TCP"}
_QUANTITIES = frozenset({"requests", "limits", "capacity", "sizeLimit", "hard", "divisor"})
_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([numkMGTPE]|[KMGTPE]i)?)")


def stamped(desired: Object) -> Object:
    """What to apply: the object with the hash of itself in an annotation."""
    metadata = desired["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: _digest(desired)}
    return {**desired, "metadata": {**metadata, "annotations": annotations}}


def needs_apply(desired: Object, observed: Object | None) -> bool:
    """Whether an object that is to be as `desired` must be written. A status in it doesn't count: it isn't applied."""
    if observed is None:
        return True
    annotations: Object = observed["metadata"].get("annotations", {})
    if annotations.get(APPLIED) != _digest(desired):
        return True
    wanted = {name: value for name, value in desired.items() if name != "status"}
    return not _holds(wanted, observed, quantity=False)


def needs_status(desired: Object, observed: Object | None) -> bool:
    """Whether a status must be written: all that differs counts, except when a condition last changed."""
    return bool(_settled(desired) != _settled(observed or {}))


def parse_quantity(text: str | int | float) -> Decimal | None:
    """The number a Kubernetes quantity stands for; None if it is none."""
    match = _QUANTITY.fullmatch(str(text))
    if not match:
        return None
    digits, exponent, suffix = match.groups()
    return Decimal(digits).scaleb(int(exponent or 0)) * _SUFFIXES[suffix or ""]


def _digest(desired: Object) -> str:
    text = json.dumps(desired, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _holds(desired: Any, observed: Any, quantity: bool) -> bool:
    """Whether all that is desired is so in what is observed."""
    if desired in (None, {}, []) and observed in (None, {}, []):
        return True
    if isinstance(desired, dict):
        return isinstance(observed, dict) and all(
            _holds(value, observed.get(name), quantity or name in _QUANTITIES) for name, value in desired.items()
        )
    if isinstance(desired, list):
        return isinstance(observed, list) and _list_holds(desired, observed, quantity)
    if quantity and isinstance(desired, str | int) and isinstance(observed, str | int):
        wanted = parse_quantity(desired)
        return desired == observed if wanted is None else wanted == parse_quantity(observed)
    return bool(desired == observed)


def _list_holds(desired: list[Any], observed: list[Any], quantity: bool) -> bool:
    """Lists that the API merges may hold more than we want; all others are ours as a whole."""
    if names := _merge_key(desired):
        found = {_identity(item, names): item for item in observed if isinstance(item, dict)}
        return all(_holds(item, found.get(_identity(item, names)), quantity) for item in desired)
    pairs = zip(desired, observed, strict=False)
    return len(desired) == len(observed) and all(_holds(want, have, quantity) for want, have in pairs)


def _merge_key(items: list[Any]) -> Sequence[str]:
    """The fields that tell these items apart; none if nothing does."""
    if not all(isinstance(item, dict) for item in items):
        return ()
    for names in _MERGE_KEYS:
        if all(names[0] in item for item in items) and len({_identity(item, names) for item in items}) == len(items):
            return names
    return ()


def _identity(item: Object, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(str(item.get(name, _DEFAULTS.get(name))) for name in names)


def _settled(value: Any) -> Any:
    """A status without what is empty and without the times that tell nothing new."""
    if isinstance(value, dict):
        items = ((name, _settled(item)) for name, item in value.items() if name != "lastTransitionTime")
        return {name: item for name, item in items if item not in (None, {}, [])}
    if isinstance(value, list):
        return [_settled(item) for item in value]
    return value
