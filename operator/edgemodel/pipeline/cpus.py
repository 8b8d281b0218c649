"""How many threads are worth starting: what the cgroup grants, not what the machine has."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def threads(root: Path = CGROUP) -> int:
    """CPUs that this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(root)
    return max(1, min(allowed, int(quota))) if quota else allowed


def _quota(root: Path) -> float | None:
    """CPUs that the cgroup's quota is worth, by version 2 or 1; None without a quota."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(limit) / int(period) if limit.isdecimal() and period.isdecimal() and int(period) else None
