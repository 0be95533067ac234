"""The runner of tests: it must not call passed what did not pass."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from lib import test_runner
from lib.test_runner import Runner, Test, conclude, tests_of

# A test binary: passes `good`, fails `bad`, passes `late` from the third try on, kills itself in `dead`, and runs nothing for
# other names, as libtest does.
BINARY = """#!/bin/sh
count() { echo "test result: $1. $2 passed; $3 failed; 0 ignored"; }
case "$*" in
*--ignored*) echo "module::left_out: test" ;;
*--list*) printf '%s\\n' "good: test" "module::left_out: test" "slow: benchmark" ;;
"good "*) count ok 1 0 ;;
"bad "*) echo "the reason"; count FAILED 0 1; exit 101 ;;
"dead "*) kill -9 $$ ;;
"late "*) echo x >>tries; if [ "$(wc -l <tries)" -ge 3 ]; then count ok 1 0; else count FAILED 0 1; exit 101; fi ;;
*) count ok 0 0 ;;
esac
"""


class RunnerTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.binary = self.folder / "binary"
        self.binary.write_text(BINARY)
        self.binary.chmod(0o755)
        self.addCleanup(setattr, test_runner, "DURATIONS", test_runner.DURATIONS)
        test_runner.DURATIONS = self.folder / "durations.json"

    def run_tests(self, *names, alone=()):
        """The tally and everything that was printed."""
        tests = [
            Test("p", name, (str(self.binary), name, "--exact"), str(self.folder), alone=name in alone)
            for name in names
        ]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            tally = Runner(2).run(tests)
            status = conclude(tally, 1)
        return tally, status, printed.getvalue()

    def test_all_passed_is_status_0_and_one_line_at_the_end(self):
        _, status, printed = self.run_tests("good")
        self.assertEqual(status, 0)
        self.assertEqual(printed.splitlines()[-1], "1 passed, 0 failed")

    def test_a_failure_is_status_1_and_shows_what_the_test_said(self):
        tally, status, printed = self.run_tests("good", "bad")
        self.assertEqual((tally.passed, status), (1, 1))
        self.assertIn("| the reason", printed)
        self.assertEqual(printed.splitlines()[-1], "1 passed, 1 failed")

    def test_a_binary_that_runs_nothing_or_is_killed_has_not_passed(self):
        tally, status, printed = self.run_tests("nothing", "dead")
        self.assertEqual((tally.passed, len(tally.failed), status), (0, 2, 1))
        self.assertIn("ended by SIGKILL", printed)

    def test_only_a_test_that_runs_alone_is_repeated_and_it_is_named_as_flaky(self):
        _, status, _ = self.run_tests("late")
        self.assertEqual(status, 1)
        (self.folder / "tries").unlink()
        tally, status, printed = self.run_tests("late", alone=["late"])
        self.assertEqual((tally.passed, len(tally.flaky), status), (1, 1, 0))
        self.assertIn("flaky: p late passed at try 3", printed)

    def test_a_test_that_runs_alone_and_always_fails_is_tried_three_times(self):
        tally, status, _ = self.run_tests("bad", alone=["bad"])
        self.assertEqual((len(tally.failed), tally.failed[0].tries, status), (1, 3, 1))

    def test_ignored_tests_are_named_and_benchmarks_are_no_tests(self):
        tests, ignored = tests_of("p", (str(self.binary),), str(self.folder), alone=["good"])
        self.assertEqual([(test.name, test.alone) for test in tests], [("good", True)])
        self.assertEqual(ignored, ["p module::left_out"])

    def test_what_is_skipped_is_counted(self):
        tally = test_runner.Tally(passed=2, skipped=["p module::left_out"])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(conclude(tally, 1), 0)
        self.assertEqual(printed.getvalue().splitlines()[-1], "2 passed, 0 failed, 1 skipped")
