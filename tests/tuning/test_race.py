"""Sequential halving: what a number of runs pays for."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ctxtune.tuning.race import Round, halving, longest_race, new_runs

counts = {"arms": st.integers(1, 9), "blocks": st.integers(1, 12), "runs": st.integers(0, 120)}


@given(**counts)
def test_a_race_keeps_within_its_runs_and_its_blocks_and_only_ever_narrows(arms, blocks, runs):
    rounds = halving(arms, blocks, runs)
    assert sum(new_runs(rounds)) <= runs
    if arms * blocks <= runs:
        assert rounds == (Round(arms, blocks),)
    for earlier, later in itertools.pairwise(rounds):
        assert later.arms <= earlier.arms and later.blocks > earlier.blocks
    for each in rounds:
        assert 1 <= each.arms <= arms and 1 <= each.blocks <= blocks


@given(**counts)
def test_nothing_is_left_that_would_pay_for_another_block_of_the_last_two(arms, blocks, runs):
    rounds = halving(arms, blocks, runs)
    if rounds and rounds[-1].blocks < blocks:
        assert runs - sum(new_runs(rounds)) < rounds[-1].arms
    if runs >= 2 and arms >= 2:
        assert rounds and rounds[0].arms >= 2


@given(arms=st.integers(2, 7), blocks=st.integers(1, 8), affordable=st.integers(0, 60), places=st.integers(1, 8))
def test_the_longest_race_fits_and_the_next_longer_one_does_not(arms, blocks, affordable, places):
    def waves(rounds):
        return sum(-(-runs // places) for runs in new_runs(rounds))

    race = longest_race(arms, blocks, lambda rounds: waves(rounds) <= affordable)
    assert waves(race) <= affordable
    longer = halving(arms, blocks, sum(new_runs(race)) + 1)
    if race and race != (Round(arms, blocks),) and sum(new_runs(longer)) > sum(new_runs(race)):
        assert waves(longer) > affordable or sum(new_runs(longer)) > sum(new_runs(race)) + 1
