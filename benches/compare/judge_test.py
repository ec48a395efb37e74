"""That `compare-dispatch` calls a row invalid that is, and a goal missed that is: `python3 benches/compare/judge_test.py`."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
path = pathlib.Path(__file__).resolve().parent.parent / "compare-dispatch"
loader = importlib.machinery.SourceFileLoader("compare_dispatch", str(path))
compare = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare_dispatch", loader))
loader.exec_module(compare)

EVEN = [10] * 16


def row(name, sink, frames=160, each=8000, servers=EVEN, unaddressed=0, wrong=0, dropped=0):
    """A row as the guest's lines make it."""
    made = compare.Row(name, sink)
    made.take("ran", [frames, frames * each, *servers, unaddressed, wrong])
    made.take("dropped", [dropped])
    return made


def rows(**costs):
    """All rows that the goals ask for; a name's cost beyond nothing is 4,000 or what is given."""
    made = {("none", sink): row("none", sink, each=6000) for sink in ["skb", "pass"]}
    for name, sink in [compare.OURS, *(peer for _, _, peers in compare.GOALS for peer in peers)]:
        made[name, sink] = row(name, sink, each=6000 + costs.get(name.replace("-", "_"), 4000))
    return made


class Judge(unittest.TestCase):
    def test_a_whole_row_counts(self):
        self.assertIsNone(row("ipvs-sh", "skb").why_invalid())

    def test_what_is_lost_without_a_count_is_seen(self):
        self.assertIn("160 delivered of 170", row("ipvs-sh", "skb", frames=170).why_invalid())

    def test_a_row_that_drops_has_no_cost(self):
        self.assertIn("10 of 170 dropped", row("ipvs-sh", "skb", frames=170, each=0, dropped=10).why_invalid())

    def test_one_server_is_no_dispatch(self):
        self.assertIn("only 1 of 16", row("ipvs-sh", "skb", servers=[160] + [0] * 15).why_invalid())
        self.assertIsNone(row("swap", "xdp", servers=[160] + [0] * 15).why_invalid())

    def test_frames_for_nobody(self):
        self.assertIn("not addressed", row("ipvs-sh", "skb", servers=[9] * 16, unaddressed=16).why_invalid())
        self.assertIn("damaged", row("ipvs-sh", "skb", frames=170, wrong=10, dropped=10).why_invalid())

    def test_the_program_must_own_to_it(self):
        made = row("oneip", "pass")
        made.take("counters", [0] * 32)
        made.take("counters", [0, 0, 150] + [0] * 29)
        self.assertIn("150 of 160", made.why_invalid())

    def test_connections(self):
        def made(name, short, long, answers=100, idle=0):
            row = compare.Row(name, "tcp")
            row.take("tcp", [100, 1, 100 * short, answers, idle])
            row.take("tcp", [100, 11, 100 * long, 1100, 0])
            return row

        known = {(row.name, row.sink): row for row in [made("tcp-none", 1000, 2000), made("tcp-haproxy", 4000, 7000)]}
        compare.judge(known)
        row = known["tcp-haproxy", "tcp"]
        self.assertEqual((row.cost, row.further, row.cost_further), (3000, 300, 200))
        self.assertIsNone(known["tcp-none", "tcp"].cost)
        self.assertIn("1199 answers of 1200", made("tcp-ipvs", 1, 2, answers=99).why_invalid())
        self.assertIn("idled 5 %", made("tcp-ipvs", 1000, 2000, idle=5000).why_invalid())

    def test_goals(self):
        met = lambda **costs: [ratio["met"] for ratio in compare.judge(rows(**costs))]
        self.assertEqual(met(oneip=500), [True, True, None])
        self.assertEqual(met(oneip=600), [False, True, None])
        self.assertEqual(met(oneip=500, nft_servers=1990), [True, False, None])
        # The cheapest of IPVS' ways counts.
        self.assertEqual(met(oneip=500, ipvs_mh_ops=3400), [False, True, None])

    def test_a_goal_without_its_rows_is_missed(self):
        made = rows(oneip=500)
        del made[compare.OURS]
        self.assertEqual([ratio["met"] for ratio in compare.judge(made)], [False, False, None])


if __name__ == "__main__":
    unittest.main()
