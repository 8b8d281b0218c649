"""Installs the agent on a Mac: two daemons of launchd, one that is the agent and one that keeps its addresses.

The agent runs as an ordinary user. Only giving an interface more addresses takes root, so that is a daemon of its own,
of commands that are fixed when it is installed.
"""

import os
import plistlib
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemodel.node.settings import BadSettings, Home, Settings

DAEMONS = Path("/Library/LaunchDaemons")
AGENT, ADDRESSES = "dev.edgemodel.node", "dev.edgemodel.node-addresses"
_REPAIR_SECONDS = 60
_OPEN_FILES = 10240


def check() -> None:
    """Raises BadSettings where launchd can't be told anything."""
    if sys.platform != "darwin":
        raise BadSettings("install is for macOS. Elsewhere: `edgemodel-node join`, and have `edgemodel-node run` run")
    if os.geteuid() != 0:
        raise BadSettings("run it with sudo: launchd's daemons are root's")


def agent_daemon(home: Home, user: str) -> dict[str, Any]:
    """launchd's description of the agent: started again unless it ended of its own accord, as one that left does.
    What it has started is left alone."""
    return {
        "Label": AGENT,
        "ProgramArguments": [sys.executable, "-m", "edgemodel.node.main", "run", "--folder", str(home.folder)],
        "UserName": user,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "AbandonProcessGroup": True,
        "SoftResourceLimits": {"NumberOfFiles": _OPEN_FILES},
        "StandardErrorPath": str(home.folder / "agent.log"),
    }


def addresses_daemon(settings: Settings, interface: str) -> dict[str, Any]:
    """launchd's description of what gives the interface its addresses, again and again: a network that comes back
    forgets them."""
    commands = [f"/sbin/ifconfig {shlex.quote(interface)} alias {each}" for each in _aliases(settings)]
    return {
        "Label": ADDRESSES,
        "ProgramArguments": ["/bin/sh", "-c", "; ".join(commands)],
        "RunAtLoad": True,
        "StartInterval": _REPAIR_SECONDS,
    }


def install(home: Home, settings: Settings, user: str, interface: str) -> None:
    """Writes the daemons and starts them."""
    account = pwd.getpwnam(user)
    for path in (home.folder, *home.folder.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    daemons: dict[str, Mapping[str, Any]] = {AGENT: agent_daemon(home, user)}
    if _aliases(settings):
        daemons = {ADDRESSES: addresses_daemon(settings, interface or _default_interface())} | daemons
    for name, daemon in daemons.items():
        path = DAEMONS / f"{name}.plist"
        _stop(name)
        path.write_bytes(plistlib.dumps(dict(daemon)))
        path.chmod(0o644)
        _launchctl("bootstrap", "system", str(path))
    sys.stdout.write(f"installed; its log is {home.folder}/agent.log. See it with: kubectl get node {settings.name}\n")


def uninstall(home: Home) -> None:
    """Stops the daemons and removes them, the addresses and the folder."""
    _stop(AGENT)
    _stop(ADDRESSES)
    path = DAEMONS / f"{ADDRESSES}.plist"
    if path.exists():
        for command in plistlib.loads(path.read_bytes())["ProgramArguments"][2].split("; "):
            subprocess.run(shlex.split(command.replace(" alias ", " -alias ")), check=False)
    for name in (AGENT, ADDRESSES):
        (DAEMONS / f"{name}.plist").unlink(missing_ok=True)
    shutil.rmtree(home.folder)


def _aliases(settings: Settings) -> list[str]:
    """The addresses that the interface does not have by itself, as ifconfig wants them."""
    extra = [address for address in settings.addresses if address != settings.address]
    return [f"inet6 {each} prefixlen 128" if ":" in each else f"inet {each} netmask 255.255.255.255" for each in extra]


def _default_interface() -> str:
    said = subprocess.run(["/sbin/route", "-n", "get", "default"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"interface: (\S+)", said)
    if found is None:
        raise BadSettings("there is no default route: name the interface that gets the addresses by --interface")
    return found[1]


def _stop(name: str) -> None:
    subprocess.run(["/bin/launchctl", "bootout", f"system/{name}"], capture_output=True, check=False)


def _launchctl(*words: str) -> None:
    done = subprocess.run(["/bin/launchctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadSettings(f"launchctl {' '.join(words)}: {done.stderr.strip() or done.returncode}")
