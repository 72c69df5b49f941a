#!/bin/sh
# Sets up everything `make run`, `make lab` or `make test` needs: Debian packages, a virtual environment, the build.
#
#   scripts/setup.sh run|lab|test VENV
#
# Packages that are missing are installed with apt-get when we are root; otherwise they are named.
set -eu

purpose=$1
venv=$2
say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing: install Python 3.11 or newer"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$(python3 --version) is too old: Python 3.11 or newer is needed"

# Whether this machine can have a lab is said before it is changed.
[ "$purpose" != lab ] || python3 -m lab.requirements

missing=""
need() { # TEST PACKAGES...: unless the test succeeds, these packages (names as in Debian) are missing
    test=$1
    shift
    sh -c "$test" >/dev/null 2>&1 || missing="$missing $*"
}
install() { # what is missing, or says what to install
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || fail "please install (names as in Debian):$missing"
    [ "$(id -u)" = 0 ] || fail "not root, so please run: sudo apt-get install$missing"
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say "the package lists could not be updated; trying with those there are"
    # shellcheck disable=SC2086  # a list of words
    apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        fail "apt-get could not install:$missing"
    missing=""
}

need 'python3 -c "import ensurepip, venv"' python3-venv
# shellcheck disable=SC2016  # expanded by the shell that runs the test
need 'command -v "${CC:-cc}"' gcc libc6-dev
need 'python3 -c "import pathlib, sysconfig, sys; sys.exit(not pathlib.Path(sysconfig.get_path(\"include\"), \"Python.h\").exists())"' python3-dev
need 'command -v redis-server' redis-server
if [ "$purpose" != run ]; then
    need 'command -v haproxy || test -x /usr/sbin/haproxy' haproxy
    need 'command -v ip || test -x /usr/sbin/ip' iproute2
    need 'command -v mmdebstrap' mmdebstrap
    need 'command -v ssh' openssh-client
    need 'command -v systemd-nspawn' systemd-container
    need 'test -e /usr/share/keyrings/debian-archive-keyring.gpg' debian-archive-keyring
fi
if [ "$purpose" = test ]; then
    need 'command -v gpg' gnupg
    need 'command -v redis-benchmark' redis-tools
    need 'command -v clang' clang
    need 'command -v node' nodejs
    need 'command -v npm' npm
    need 'command -v promtool' prometheus
    need 'command -v tclsh' tcl
    need 'command -v logrotate || test -x /usr/sbin/logrotate' logrotate
fi
install
if [ "$purpose" = test ]; then
    # The fuzzer's runtime comes in a package named after the compiler's version.
    clang=$(clang -dumpversion | cut -d. -f1)
    need "test -e \"\$(clang -print-file-name=libclang_rt.fuzzer-$(uname -m).a)\"" "libclang-rt-$clang-dev"
    install
fi

[ -x "$venv/bin/python" ] || {
    say "making a virtual environment in $venv"
    python3 -m venv "$venv"
}
case $purpose in
    test) extras="[dev]" ;;
    lab) extras="[lab]" ;;
    *) extras="" ;;
esac
say "building and installing the proxy (about a minute the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extras"
if [ "$purpose" = test ]; then
    say "installing the Node.js clients the tests use"
    (cd tests/clients && npm ci --silent --no-audit --no-fund)
    if [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then
        say "$(node --version) is too old for them: installing a newer Node.js beside them"
        machine=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
        (cd tests/clients && npm install --silent --no-audit --no-fund --no-save "node-linux-$machine@22")
    fi
fi
