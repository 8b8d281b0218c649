"""How an installation is described, and who it is."""

import plistlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgemodel.node import launchd
from edgemodel.node.identity import Identity, public_key_hash
from edgemodel.node.settings import BadSettings, Home, Settings, addresses_of

SETTINGS = Settings(
    "https://k8s.example:6443", "mac-1", "192.0.2.1", ("192.0.2.1", "192.0.2.10", "192.0.2.11"), "python3"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.10", ("192.0.2.10",)),
        ("192.0.2.10-192.0.2.12", ("192.0.2.10", "192.0.2.11", "192.0.2.12")),
        ("192.0.2.10-192.0.2.11, 192.0.2.20,192.0.2.10", ("192.0.2.10", "192.0.2.11", "192.0.2.20")),
        ("2001:db8::1-2001:db8::2", ("2001:db8::1", "2001:db8::2")),
    ],
)
def test_addresses_are_single_ones_and_ranges(text: str, expected: tuple[str, ...]) -> None:
    assert addresses_of(text) == expected


@pytest.mark.parametrize("text", ["", "mac.local", "192.0.2.9-192.0.2.1", "10.0.0.0-10.9.0.0", "192.0.2.1-2001:db8::1"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSettings, match=r"192\.0\.2\.10-192\.0\.2\.13"):
        addresses_of(text)


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    SETTINGS.write(tmp_path)
    assert Settings.read(tmp_path) == SETTINGS


def test_missing_and_broken_settings_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="join"):
        Settings.read(tmp_path)
    (tmp_path / "settings.json").write_text('{"server": 1')
    with pytest.raises(BadSettings, match="join"):
        Settings.read(tmp_path)


def test_daemon_runs_the_agent_as_its_user_and_leaves_what_it_started() -> None:
    daemon = plistlib.loads(plistlib.dumps(launchd.agent_daemon(Home(Path("/var/agent")), "models")))
    assert daemon["ProgramArguments"][1:] == ["-m", "edgemodel.node.main", "run", "--folder", "/var/agent"]
    assert daemon["UserName"] == "models"
    assert daemon["KeepAlive"] == {"SuccessfulExit": False}
    assert daemon["AbandonProcessGroup"]


def test_daemon_of_the_addresses_gives_all_but_the_macs_own() -> None:
    daemon = launchd.addresses_daemon(SETTINGS, "en0")
    assert daemon["ProgramArguments"][2] == (
        "/sbin/ifconfig en0 alias inet 192.0.2.10 netmask 255.255.255.255; "
        "/sbin/ifconfig en0 alias inet 192.0.2.11 netmask 255.255.255.255"
    )
    assert "UserName" not in daemon  # root: nobody else may


def test_install_elsewhere_than_on_a_mac_says_what_to_do() -> None:
    with pytest.raises(BadSettings, match="edgemodel-node join"):
        launchd.check()


def test_self_signed_identity_serves_and_is_renewed_in_time(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "keys" / "serving.pem", "mac-1")
    assert identity.is_due()
    assert identity.renew_at() is None
    identity.sign_self(["192.0.2.1", "2001:db8::1"])
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(identity.path)
    assert identity.path.stat().st_mode & 0o777 == 0o600
    assert identity.is_self_signed()
    renewed = identity.renew_at()
    assert renewed is not None
    assert timedelta(days=200) < renewed - datetime.now(UTC) < timedelta(days=365)
    assert not identity.is_due()


def test_authority_is_known_by_the_hash_that_kubeadm_prints(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "ca.pem", "ca")
    identity.sign_self([])
    found = public_key_hash(identity.path.read_bytes())
    assert found.startswith("sha256:")
    assert len(found) == len("sha256:") + 64
