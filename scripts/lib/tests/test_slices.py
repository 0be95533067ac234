"""Of a process whose cost is known, slices of time tell what it is."""

import random
import unittest

from lib.common import Failure
from lib.slices import SLICE_NS, Slice, differences, kind_of, must_be_kept, slices


class Slices(unittest.TestCase):
    def test_the_cost_of_each_kind_is_found_through_drift_and_noise(self):
        chance = random.Random(1)
        less = [0.0, 1.5, 4.0]
        found, level = [], 140.0
        for number in range(6_000):
            # A machine whose speed wanders by some percent.
            level += chance.uniform(-0.3, 0.3) + (140.0 - level) / 500
            kind = kind_of(number, 3)
            found.append(Slice(chance.randint(100, 150), level - less[kind] + chance.gauss(0, 4), kind))
        (one, one_error), (two, two_error) = differences(found, 3)
        self.assertLess(abs(one - less[1]), 4 * one_error)
        self.assertLess(abs(two - less[2]), 4 * two_error)
        self.assertLess(max(one_error, two_error), 0.2)
        self.assertGreater(min(one_error, two_error), 0.05)

    def test_all_kinds_are_about_as_frequent(self):
        kinds = [kind_of(number, 3) for number in range(3_000)]
        for kind in range(3):
            self.assertTrue(900 < kinds.count(kind) < 1_100, kinds.count(kind))

    def test_slices_have_their_requests_and_their_time_and_late_readings_are_left_out(self):
        readings = [(nth * SLICE_NS, nth * 9_000_000) for nth in range(5)]
        readings[3] = (3 * SLICE_NS + 2_000_000, 27_000_000)
        times = [SLICE_NS // 2, SLICE_NS + 5, SLICE_NS + 6, SLICE_NS + 7]
        self.assertEqual(
            [(each.requests, each.each, each.kind) for each in slices(readings, times, 3)],
            [(1, 9_000.0, kind_of(0, 3)), (3, 3_000.0, kind_of(1, 3))],
        )

    def test_a_process_that_goes_by_other_slices_is_noticed(self):
        readings = [(nth * SLICE_NS, nth) for nth in range(300)]
        middles = {
            kind: [nth * SLICE_NS + SLICE_NS // 2 for nth in range(299) if kind_of(nth, 3) == kind] for kind in range(3)
        }
        must_be_kept(readings, middles[0], 3)
        for other in (middles[1], middles[2], sorted(middles[0] + middles[1]), []):
            with self.assertRaises(Failure):
                must_be_kept(readings, other, 3)


if __name__ == "__main__":
    unittest.main()
