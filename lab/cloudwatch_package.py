"""A stand-in for the CloudWatch agent's package, which cannot be had without the internet.

It has the real one's layout, unit and control script, and where the real one touches what others wrote, so
does this: the control script replaces the configuration, the agent takes ownership of its folders when it
starts. It sends nothing.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

NAME = "amazon-cloudwatch-agent"
HOME = f"opt/aws/{NAME}"

CONTROL = """\
Package: amazon-cloudwatch-agent
Version: {version}
Architecture: all
Section: admin
Priority: optional
Maintainer: redis-proxy lab <lab@example.invalid>
Description: STAND-IN for the Amazon CloudWatch Agent
 For tests of a deployment: same layout, unit and control script. It sends nothing.
"""

PREINST = """\
#!/bin/sh
set -e
[ "$1" != upgrade ] || /opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a stop
getent group cwagent >/dev/null || groupadd -r cwagent
getent passwd cwagent >/dev/null || useradd -r -M -d /home/cwagent -g cwagent -s /usr/sbin/nologin cwagent
"""

UNIT = """\
[Unit]
Description=STAND-IN for the Amazon CloudWatch Agent
After=network.target

[Service]
Type=simple
ExecStart=/opt/aws/amazon-cloudwatch-agent/bin/start-amazon-cloudwatch-agent
KillMode=process
Restart=on-failure
RestartSec=60s

[Install]
WantedBy=multi-user.target
"""

START = """\
#!/bin/sh
set -eu
cd /opt/aws/amazon-cloudwatch-agent
echo "STAND-IN for the CloudWatch agent: started, sends nothing" >>logs/amazon-cloudwatch-agent.log
chown -R cwagent:cwagent etc logs var
exec setpriv --reuid=cwagent --regid=cwagent --init-groups sleep infinity
"""

CTL = """\
#!/bin/sh
# STAND-IN for amazon-cloudwatch-agent-ctl.
set -eu
home=/opt/aws/amazon-cloudwatch-agent
unit=amazon-cloudwatch-agent.service
action='' mode=ec2 config='' restart=false
fail() {
    echo "$*" >&2
    exit 1
}
while getopts ":sa:c:m:" option; do
    case $option in
    s) restart=true ;;
    a) action=$OPTARG ;;
    c) config=$OPTARG ;;
    m) mode=$OPTARG ;;
    *) fail "invalid option: -$OPTARG" ;;
    esac
done
case $mode in ec2 | onPremise | auto) ;; *) fail "Invalid mode: $mode" ;; esac

start() {
    systemctl daemon-reload
    systemctl enable "$unit"
    systemctl restart "$unit"
}
fetch() {
    file=${config#file:}
    [ "$file" != "$config" ] || fail "the stand-in only knows file:PATH, not: $config"
    python3 -m json.tool "$file" >/dev/null || fail "Configuration validation failed: $file"
    find "$home/etc/amazon-cloudwatch-agent.d" -type f -delete
    cp "$file" "$home/etc/amazon-cloudwatch-agent.d/file_$(basename "$file")"
    rm -f "$home/etc/amazon-cloudwatch-agent.json"
    echo "# STAND-IN, mode $mode" >"$home/etc/amazon-cloudwatch-agent.toml"
    echo "Configuration validation succeeded"
}
case $action in
fetch-config)
    fetch
    [ $restart = false ] || start
    ;;
start) start ;;
stop) systemctl stop "$unit" ;;
status) systemctl is-active "$unit" ;;
preun) systemctl disable --now "$unit" ;;
*) fail "Invalid action: $action" ;;
esac
"""

PRERM = """\
#!/bin/sh
set -e
[ "$1" != remove ] || /opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a preun
"""


def build(directory: Path, version: str = "1.0.0-standin") -> Path:
    """Builds the package in ``directory``; needs dpkg-deb. Raises subprocess.CalledProcessError."""
    scripts = {
        "DEBIAN/preinst": PREINST,
        "DEBIAN/prerm": PRERM,
        f"{HOME}/bin/{NAME}-ctl": CTL,
        f"{HOME}/bin/start-{NAME}": START,
    }
    files = {
        "DEBIAN/control": CONTROL.format(version=version),
        f"etc/systemd/system/{NAME}.service": UNIT,
        f"{HOME}/bin/CWAGENT_VERSION": version,
        f"{HOME}/etc/{NAME}.d/default": "{}\n",
    }
    package = directory / f"{NAME}_{version}.deb"
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "root")
        for path, text in (files | scripts).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
            (root / path).chmod(0o755 if path in scripts else 0o644)
        for folder in ("logs", "var"):
            (root / HOME / folder).mkdir()
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", root, package], check=True, capture_output=True
        )
    return package


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
