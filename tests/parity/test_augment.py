"""Augmentation of the crops before training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vocos_onnx_train.augment import (
    Augment,
    changed,
    coloured_noise,
    drawn,
    low_pass,
    mixed,
    reverberant,
    synthetic,
)

RATE, SAMPLES = 24_000, 24_000


def noise(size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, (size, SAMPLES))).float()


def refused(count: int) -> torch.Tensor:
    raise AssertionError("no other crops are needed")


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    crops = noise(3)
    assert torch.equal(changed(crops, RATE, Augment(), np.random.default_rng(0), refused), crops)


def test_the_low_pass_leaves_what_is_below_and_nothing_above() -> None:
    power = torch.fft.rfft(low_pass(noise(2), np.array([4000, 8000]) / RATE)).abs() ** 2
    before = torch.fft.rfft(noise(2)).abs() ** 2
    for row, cutoff in enumerate((4000, 8000)):  # bins are 1 Hz wide
        below, above = slice(int(0.9 * cutoff)), slice(int(1.1 * cutoff), None)
        torch.testing.assert_close(power[row, below], before[row, below], rtol=1e-3, atol=1e-3)
        assert power[row, above].max() < 1e-6


def test_what_is_mixed_in_lies_as_far_below_as_it_should() -> None:
    crops, others = noise(2), 7 * noise(2, 1)
    added = mixed(crops, others, np.array([0.0, 20.0])) - crops
    ratio = 20 * (crops.square().mean(1).sqrt() / added.square().mean(1).sqrt()).log10()
    torch.testing.assert_close(ratio, torch.tensor([0.0, 20.0]), rtol=0, atol=0.01)


def test_noise_falls_by_at_most_6_db_an_octave() -> None:
    power = torch.fft.rfft(coloured_noise(50, SAMPLES, np.random.default_rng(0))).abs() ** 2
    falls = 10 * (power[:, 1000:2000].mean(1) / power[:, 2000:4000].mean(1)).log10()
    assert falls.min() > -0.5 and falls.max() < 6.5
    assert falls.max() - falls.min() > 4


def test_a_room_keeps_the_direct_sound_and_adds_a_tail() -> None:
    click = torch.zeros(4, SAMPLES)
    click[:, 100] = 1
    wet = reverberant(click, RATE, np.random.default_rng(0))
    torch.testing.assert_close(wet[:, 100], torch.ones(4), rtol=0, atol=1e-4)
    assert wet[:, :100].abs().max() < 1e-3
    tail = wet[:, 101:].square().sum(1)
    assert (tail > 0.009).all() and (tail < 1.01).all()
    assert (wet[:, 101:6000].square().sum(1) > 100 * wet[:, 18_000:].square().sum(1)).all()


def test_synthetic_sounds_are_of_several_kinds_and_of_one_peak() -> None:
    rng = np.random.default_rng(0)
    sounds = torch.stack([synthetic(SAMPLES, RATE, rng) for _ in range(40)])
    torch.testing.assert_close(sounds.abs().amax(1), torch.full((40,), 0.7), rtol=0, atol=1e-3)
    assert torch.isfinite(sounds).all()
    crest = (sounds.abs().amax(1) / sounds.square().mean(1).sqrt()).sort().values
    assert crest[0] < 1.5 and crest[-1] > 10  # a tone, and clicks


def test_each_change_is_done_to_its_share_of_the_crops() -> None:
    crops = noise(200)
    shares = {"low_pass": 0.3, "mixture": 0.1, "noise": 0.1, "reverb": 0.1, "synthetic": 0.1}
    for name, share in shares.items():
        given = changed(crops, RATE, Augment(**{name: share}), np.random.default_rng(1), lambda n: noise(n, 2))
        assert given.shape == crops.shape
        different = (given != crops).any(1).float().mean()
        assert 0.4 * share < different < 2 * share, name
        assert given.abs().max() <= 1
    assert len(drawn(np.random.default_rng(0), 0.0, 100)) == 0
    assert len(drawn(np.random.default_rng(0), 1.0, 100)) == 100


def test_the_same_numbers_make_the_same_crops() -> None:
    every = Augment(low_pass=0.5, synthetic=0.3, mixture=0.5, noise=0.5, reverb=0.5)
    one, other = (changed(noise(8), RATE, every, np.random.default_rng(3), lambda n: noise(n, 2)) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("share", [1.0])
def test_all_at_once(share: float) -> None:
    given = changed(
        noise(8),
        RATE,
        Augment(share, share, share, share, share, share),
        np.random.default_rng(0),
        lambda n: noise(n, 2),
    )
    assert torch.isfinite(given).all()
    assert given.abs().max() <= 1
