"""What the contest remembers: a running mean for each picture with several captions, the worst of late for others."""

from __future__ import annotations

import pytest
import torch

from roclip_audit.train.verdicts import MEMORY, RATE, Verdicts

CPU = torch.device("cpu")


def numbered() -> Verdicts:
    """Return verdicts on 6 pairs, of which 0, 2 and 4 show one picture."""
    verdicts = Verdicts(6, CPU)
    verdicts.number(torch.tensor([3, 0, 3, 1, 3, 2]))
    return verdicts


def test_a_pair_that_lost_is_believed_again_after_some_epochs() -> None:
    verdicts = numbered()
    pairs = torch.tensor([1, 3])
    assert verdicts.joined(torch.tensor([0.9, 0.1]), pairs).tolist() == pytest.approx([0.9, 0.1])
    assert verdicts.joined(torch.tensor([0.0, 0.4]), pairs).tolist() == pytest.approx([0.9 * MEMORY, 0.4])
    assert verdicts.joined(torch.tensor([0.0, 0.0]), pairs).tolist() == pytest.approx([0.9 * MEMORY**2, 0.4 * MEMORY])


def test_captions_of_one_picture_share_a_mean_that_forgets_as_fast_for_every_number_of_captions() -> None:
    verdicts = numbered()
    first = verdicts.joined(torch.tensor([0.6, 0.5, 0.2]), torch.tensor([0, 1, 4]))
    assert first.tolist() == pytest.approx([0.4, 0.5, 0.4])
    one_epoch = verdicts.joined(torch.tensor([0.7, 0.7, 0.7]), torch.tensor([0, 2, 4]))
    assert one_epoch.tolist() == pytest.approx([(1 - RATE) * 0.4 + RATE * 0.7] * 3)
    in_turns = numbered()
    in_turns.joined(torch.tensor([0.6, 0.2]), torch.tensor([0, 4]))
    for pair in (0, 2, 4):
        last = in_turns.joined(torch.tensor([0.7]), torch.tensor([pair]))
    assert last.tolist() == pytest.approx(one_epoch.tolist()[:1])


def test_the_mean_of_a_picture_is_over_what_its_pairs_remember() -> None:
    verdicts = numbered()
    verdicts.joined(torch.tensor([0.6, 0.5, 0.1]), torch.tensor([0, 2, 4]))
    mean = (0.6 * MEMORY + 0.5 * MEMORY + 0.1 * MEMORY) / 3
    found = verdicts.joined(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0, 2, 4]))
    assert found.tolist() == pytest.approx([(1 - RATE) * 0.4 + RATE * mean] * 3)


def test_it_goes_on_where_it_was() -> None:
    verdicts, again = numbered(), Verdicts(6, CPU)
    verdicts.joined(torch.tensor([0.6, 0.5, 0.2]), torch.tensor([0, 1, 4]))
    again.restore({name: tensor.clone() for name, tensor in verdicts.state().items()})
    assert again.are_numbered
    pairs = torch.tensor([2, 1])
    assert torch.equal(again.joined(torch.tensor([0.3, 0.3]), pairs), verdicts.joined(torch.tensor([0.3, 0.3]), pairs))


def test_it_is_as_ignorant_afterwards_if_it_was_saved_before_the_numbers_were_known() -> None:
    again = Verdicts(3, CPU)
    again.restore(Verdicts(3, CPU).state())
    assert not again.are_numbered


def test_without_numbers_every_pair_has_a_picture_of_its_own() -> None:
    verdicts = Verdicts(3, CPU)
    assert not verdicts.are_numbered
    assert verdicts.joined(torch.tensor([0.3, 0.6]), torch.tensor([0, 2])).tolist() == pytest.approx([0.3, 0.6])
