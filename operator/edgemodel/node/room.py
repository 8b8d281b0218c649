"""What pods share: the machine's memory, the addresses that are set aside for them, and its owner's patience."""

from collections.abc import Callable, Collection, Sequence

from edgemodel.engine.objects import Object
from edgemodel.node.admission import OUT_OF_ADDRESSES, Refused, check_room
from edgemodel.node.lifecycle import CRASHES_FORGOTTEN_AFTER, wait_before
from edgemodel.node.record import Record


class Room:
    """Memory and addresses, which pods share."""

    def __init__(self, addresses: Sequence[str], allocatable: Callable[[], int | None]) -> None:
        self._addresses = addresses
        self._allocatable = allocatable
        self._taken: dict[str, tuple[str, int]] = {}
        self._leaving: set[str] = set()

    def take(self, uid: str, memory: int) -> str | None:
        """An address for a pod that needs so much memory; None while it must wait for those that leave. Raises Refused.

        The scheduler may give the place of a pod that is no more to another before its process has ended.
        """
        self._check(memory, [each for other, each in self._taken.items() if other not in self._leaving])
        try:
            address = self._check(memory, self._taken.values())
        except Refused:
            return None
        self._taken[uid] = address, memory
        return address

    def _check(self, memory: int, others: Collection[tuple[str, int]]) -> str:
        check_room(memory, sum(size for _, size in others), self._allocatable())
        taken = {address for address, _ in others}
        free = next((address for address in self._addresses if address not in taken), None)
        if free is None:
            raise Refused(OUT_OF_ADDRESSES, f"each of the node's {len(self._addresses)} addresses has a pod already")
        return free

    def leaves(self, uid: str) -> None:
        """A pod is about to be no more."""
        self._leaving.add(uid)

    def keep(self, record: Record) -> None:
        """A pod of before has these."""
        if record.address:
            self._taken[record.uid] = record.address, record.memory

    def give_back(self, uid: str) -> None:
        """A pod is no more."""
        self._taken.pop(uid, None)
        self._leaving.discard(uid)


class Refusals:
    """How long to wait before a pod is refused: who makes pods in the place of those that failed, as most controllers
    do at once, would otherwise make them by the thousand."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}

    def delay(self, pod: Object, clock: float) -> float:
        """Seconds, more with each pod of the same owner."""
        owners = pod["metadata"].get("ownerReferences", ())
        if not owners:
            return 0.0
        self._counts = {uid: each for uid, each in self._counts.items() if clock - each[1] < CRASHES_FORGOTTEN_AFTER}
        count = self._counts.get(owners[0]["uid"], (0, 0.0))[0] + 1
        self._counts[owners[0]["uid"]] = count, clock
        return wait_before(count)
