#!/usr/bin/env bash
# Runs the tests with the daemon under coverage, in every process; exits 1 if a line of daemon/, control/ or standalone/ was run by none.
# usage: coverage.sh PYTHON [PYTEST ARGUMENT...]
# test_changes runs a copy of the tree, which is gone when lines are counted.
# Five tests say which modules are loaded, or count what pytest prints: coverage's own are among them.
# Another test that fails here is named and no more: what is slower may miss a bar. `make test` is what has to be green.
set -uo pipefail

python=$1
shift
data=$(mktemp -d /tmp/smtpguard-coverage-XXXXXX)
trap 'rm -rf "$data"' EXIT
chmod 1777 "$data"  # helpers have given up root when they write theirs
export COVERAGE_FILE="$data/data" SMTPGUARD_TEST_PATIENCE=5
"$python" -m coverage run -m pytest -m "not long and not bench" --timeout 900 --ignore tests/unit/test_changes.py \
  --deselect tests/unit/test_daemon_modules.py::test_nothing_large_is_loaded_that_is_rarely_needed \
  --deselect tests/unit/test_daemon_modules.py::test_what_dataclasses_hardly_ever_asks_is_not_executed \
  --deselect tests/cli/test_exempt.py::test_imports_no_more_than_it_needs \
  --deselect tests/kernel/test_control_peers.py::test_asking_imports_nothing_heavy \
  --deselect tests/unit/test_conftest.py::test_a_test_that_looks_at_the_hosts_own_files_fails "$@" \
  || echo "coverage: some tests failed; what they would have run may be missing below" >&2
"$python" -m coverage run --source=smtpguard/daemon,smtpguard/control,smtpguard/standalone -m smtpguard.errors 2>"$data/warnings"  # what nothing imports counts too
"$python" -m coverage combine --quiet "$data" 2>>"$data/warnings"
"$python" -m coverage report
