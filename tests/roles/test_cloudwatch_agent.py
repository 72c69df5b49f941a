"""The role cloudwatch_agent on a real host, with a stand-in for the agent.

Tests go on where the one before stopped.
"""

import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.cloudwatch_package import build
from tests.roles.roles_host import RolesHost, host

__all__ = ["host"]

ROLE = "cloudwatch_agent"
ETC = "/opt/aws/amazon-cloudwatch-agent/etc"
APPLIED = f"{ETC}/amazon-cloudwatch-agent.d"


class Signer:
    """A key of our own, in place of AWS's."""

    def __init__(self, directory: Path) -> None:
        self._gpg = ["gpg", "--homedir", str(directory), "--batch", "--quiet", "--yes"]
        directory.mkdir(mode=0o700)
        self._run(
            "--passphrase", "", "--quick-generate-key", "tests@example.invalid", "ed25519", "sign", "never"
        )
        fields = self._run("--with-colons", "--fingerprint").split("fpr:", 1)[1].split(":")
        self.fingerprint = next(field for field in fields if field)
        self.key = directory / "key.asc"
        self._run("--armor", "--output", str(self.key), "--export")

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._gpg, *arguments], check=True, capture_output=True, text=True).stdout

    def sign(self, package: Path) -> Path:
        signature = package.with_name(package.name + ".sig")
        self._run("--output", str(signature), "--detach-sign", str(package))
        return signature

    def close(self) -> None:
        subprocess.run(["gpgconf", *self._gpg[1:3], "--kill", "all"], check=True)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def package(packages: Path) -> Path:
    return build(packages)


@pytest.fixture(scope="module")
def newer(packages: Path) -> Path:
    return build(packages, "1.0.1-standin")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    signer = Signer(tmp_path_factory.mktemp("signer") / "gpg")
    yield signer
    signer.close()


@pytest.fixture
def local(package: Path, signer: Signer) -> dict[str, Any]:
    """A package from a file, with a checksum and a signature."""
    return {
        "package_file": str(package),
        "package_checksum": f"sha256:{hashlib.sha256(package.read_bytes()).hexdigest()}",
        "signature_file": str(signer.sign(package)),
        "key_file": str(signer.key),
        "key_fingerprint": signer.fingerprint,
    }


def _version(host: RolesHost) -> str:
    return host.run("dpkg-query -W -f '${Version}' amazon-cloudwatch-agent", check=False)


def _main_pid(host: RolesHost) -> int:
    return int(host.run("systemctl show --property MainPID --value amazon-cloudwatch-agent.service"))


def test_a_check_of_a_clean_host_shows_and_changes_nothing(host: RolesHost, local: dict[str, Any]) -> None:
    played = host.play(ROLE, local, check=True)
    assert played.status == 0, played.output
    assert '+    "namespace": "CWAgent"' in played.output
    assert _version(host) == ""
    assert not host.exists("/opt/aws")


def test_a_package_that_is_not_what_it_should_be_is_refused(
    host: RolesHost, local: dict[str, Any], package: Path, newer: Path
) -> None:
    played = host.play(ROLE, local | {"package_checksum": f"sha256:{'0' * 64}"})
    assert played.status != 0
    assert f"cloudwatch_agent_package_checksum is sha256:{'0' * 64}, but that of {package} is" in played.said
    played = host.play(ROLE, local | {"package_file": str(newer), "package_checksum": ""})
    assert played.status != 0
    assert f"{newer} has no good signature of the key {local['key_fingerprint']}" in played.said
    played = host.play(ROLE, local | {"key_fingerprint": "0" * 40})
    assert played.status != 0
    assert f"has no good signature of the key {'0' * 40}" in played.said
    played = host.play(ROLE, {"package_file": "/nowhere/agent.deb"})
    assert played.status != 0
    assert "cloudwatch_agent_package_file: no file /nowhere/agent.deb on the control machine" in played.said
    assert _version(host) == ""


def test_it_is_installed_configured_and_runs(host: RolesHost, local: dict[str, Any]) -> None:
    played = host.play(ROLE, local)
    assert played.status == 0, played.output
    assert _version(host) == "1.0.0-standin"
    assert host.run(f"ls {APPLIED}") == "file_redis-proxy-ec2.json"  # not the packaged default
    config = json.loads(host.run(f"cat {APPLIED}/file_redis-proxy-ec2.json"))
    assert config["agent"]["run_as_user"] == "cwagent"
    assert host.run(f"stat -c '%U %a' {ETC}/redis-proxy-ec2.json") == "cwagent 640"
    assert host.run("systemctl is-enabled amazon-cloudwatch-agent.service") == "enabled"
    assert host.run(f"stat -c %U /proc/{_main_pid(host)}") == "cwagent"


@pytest.mark.parametrize("check", [False, True], ids=["again", "check"])
def test_a_second_run_changes_nothing(host: RolesHost, local: dict[str, Any], check: bool) -> None:
    pid = _main_pid(host)
    played = host.play(ROLE, local, check=check)
    assert (played.status, played.changed) == (0, 0), played.output
    assert _main_pid(host) == pid


def test_another_configuration_is_applied_and_the_agent_restarted(
    host: RolesHost, local: dict[str, Any]
) -> None:
    pid = _main_pid(host)
    changed = local | {
        "interval": 30,
        "mode": "onPremise",
        "append_dimensions": [],
        "aggregation_dimensions": [],
    }
    shown = host.play(ROLE, changed, check=True)
    assert shown.status == 0, shown.output
    assert _main_pid(host) == pid
    played = host.play(ROLE, changed)
    assert played.status == 0, played.output
    assert host.run(f"ls {APPLIED}") == "file_redis-proxy-onPremise.json"
    assert json.loads(host.run(f"cat {APPLIED}/*"))["agent"]["metrics_collection_interval"] == 30
    assert "mode onPremise" in host.run(f"cat {ETC}/amazon-cloudwatch-agent.toml")
    assert not host.exists(f"{ETC}/redis-proxy-ec2.json")
    assert _main_pid(host) not in (0, pid)


def test_what_somebody_else_applied_is_replaced(host: RolesHost, local: dict[str, Any]) -> None:
    assert host.play(ROLE, local).status == 0
    host.run(f"echo '{{}}' >{APPLIED}/file_other.json")
    played = host.play(ROLE, local)
    assert played.status == 0, played.output
    assert host.run(f"ls {APPLIED}") == "file_redis-proxy-ec2.json"


def test_an_agent_that_was_stopped_is_started(host: RolesHost, local: dict[str, Any]) -> None:
    host.run("systemctl stop amazon-cloudwatch-agent.service")
    played = host.play(ROLE, local)
    assert (played.status, played.changed) == (0, 1), played.output
    assert _main_pid(host) > 0


def test_another_version_comes_from_a_url_and_only_once(
    host: RolesHost, newer: Path, signer: Signer, tmp_path: Path
) -> None:
    signer.sign(newer)
    given: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            if code == http.HTTPStatus.OK:  # and not "not modified"
                given.append(self.path)

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=newer.parent)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{newer.name}"
        remote = {
            "package_url": url,
            "key_file": str(signer.key),
            "key_fingerprint": signer.fingerprint,
            "download_directory": str(tmp_path / "downloads"),
        }
        pid = _main_pid(host)
        played = host.play(ROLE, remote)
        assert played.status == 0, played.output
        again = host.play(ROLE, remote)
        server.shutdown()
    assert _version(host) == "1.0.1-standin"
    assert _main_pid(host) not in (0, pid)
    assert (again.status, again.changed) == (0, 0), again.output
    assert given == [f"/{newer.name}", f"/{newer.name}.sig"]
