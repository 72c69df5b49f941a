#!/bin/sh
# Runs the tests of compiled code under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   scripts/asan.sh [PYTEST-ARGUMENTS]
#   scripts/asan.sh run MODULE [ARGUMENTS]
#
# Everything is made in build/asan: a copy of the tree with its own builds, and a virtual environment.
# In the copy nothing is kept for reuse (blocks of buffers, requests), so that a use after free shows;
# and signed overflow, which Python's own flags (-fwrapv) define, is a finding.
# A finding aborts its process; what was found is printed at the end, and the status is not 0.
# Arguments replace the list of tests; `run` runs a module of the tree (python -m) instead of tests.
# Needs gcc, with its libasan and libubsan; CC names another one.
set -eu
cd "$(dirname "$0")/.."

CC=${CC:-gcc}
asan=$PWD/build/asan
venv=$asan/venv
flags="-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -fno-wrapv"
runtime="$("$CC" -print-file-name=libasan.so) $("$CC" -print-file-name=libubsan.so)"
command -v redis-server >/dev/null || { echo "asan: redis-server is not installed" >&2; exit 1; }

rm -rf "${asan:?}/tree" "${asan:?}/bin" "${asan:?}/reports"
mkdir -p "$asan/tree" "$asan/bin" "$asan/reports"
git ls-files -z --cached --others --exclude-standard | tar -c --ignore-failed-read --null -T - | tar -x -C "$asan/tree"
for kept in buffers:POOLED_BLOCKS requests:KEPT_REQUESTS; do
    file=$asan/tree/proxy/${kept%:*}.pyx
    sed -i "s/^\( *${kept#*:} =\) [0-9]*/\1 0/" "$file"
    grep -q "^ *${kept#*:} = 0" "$file" || { echo "asan: $file has no ${kept#*:}" >&2; exit 1; }
done
[ ! -d tests/clients/node_modules ] || ln -s "$PWD/tests/clients/node_modules" "$asan/tree/tests/clients/"
# Other programs are not ours to check: they start without the runtime.
for program in redis-server redis-cli redis-benchmark memtier_benchmark node npm promtool ps; do
    found=$(command -v "$program") || continue
    printf '#!/bin/sh\nunset LD_PRELOAD\nexec "%s" "$@"\n' "$found" >"$asan/bin/$program"
    chmod +x "$asan/bin/$program"
done

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
PROXY_CFLAGS="-O1 -g $flags" PROXY_LDFLAGS=$flags CC=$CC \
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$asan/tree[test]"

if [ "${1:-}" = run ]; then
    shift
else
    [ $# -gt 0 ] || set -- tests/cluster tests/fuzz/test_dataplane.py tests/unit/test_answers.py \
        tests/unit/test_control.py tests/unit/test_fanout.py tests/unit/test_pubsub.py \
        tests/unit/test_pubsub_sessions.py tests/unit/test_resp.py tests/unit/test_scan.py \
        tests/unit/test_scan_changes.py tests/unit/test_slots.py tests/unit/test_subscriptions.py
    set -- pytest --timeout 600 "$@"
fi
options=halt_on_error=1:abort_on_error=1:print_stacktrace=1:log_path=$asan/reports/report
status=0
(
    cd "$asan/tree"
    PATH=$asan/bin:$PATH PROXY_ASAN=1 PYTHONMALLOC=malloc LD_PRELOAD=$runtime \
        ASAN_OPTIONS=detect_leaks=0:handle_abort=1:detect_stack_use_after_return=1:$options UBSAN_OPTIONS=$options \
        "$venv/bin/python" -m "$@"
) || status=$?

for report in "$asan"/reports/*; do
    [ -s "$report" ] || continue
    status=1
    echo "asan: $report"
    cat "$report"
done
exit "$status"
