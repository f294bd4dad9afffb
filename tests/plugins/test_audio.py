"""The log-mel front end against scipy and numpy, and the encoders over it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.signal import get_window, stft

import autotransfer_audio
from autotransfer_audio.encoders import Cnn, Lstm, cnn, lstm
from autotransfer_audio.mel import LogMel, Mel, frames_of, lengths_of, mask_of, masked_mean, mel_filters

SPECS = {s.id: s for s in autotransfer_audio.autotransfer_backbones()}


def test_the_cards_load_no_torch_and_say_that_nothing_is_pretrained():
    code = (
        "import sys, autotransfer_audio\nautotransfer_audio.autotransfer_backbones()\n"
        "assert not {'torch', 'soundfile', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(SPECS) == {"audio/cnn", "audio/lstm"}
    for spec in SPECS.values():
        assert "random weights" in spec.summary
        assert spec.pretrained_on == "nothing"
        assert spec.weights is None


def test_power_is_that_of_scipy(clips):
    wave = clips([9_000])["waveform"]
    front = Mel(16_000, 400, 160, 40, fft=512)
    _, _, spectrum = stft(
        wave[0].double().numpy(),
        window=get_window("hann", 400),
        nperseg=400,
        noverlap=240,
        nfft=512,
        boundary=None,
        padded=False,
    )
    power = np.abs(spectrum.T * get_window("hann", 400).sum()) ** 2
    wanted = power @ mel_filters(16_000, 512, 40)
    assert np.allclose(front(wave)[0, : len(wanted)].numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_frames_begin_at_every_hop_and_what_lies_past_the_end_is_zero():
    wave = torch.zeros(1, 1_000)
    wave[0, 700] = 1.0
    power = Mel(16_000, 400, 160, 40)(wave)
    assert power.shape == (1, 7, 40)
    heard = power.sum(2)[0] > 0
    assert heard.tolist() == [False, False, True, True, True, False, False]  # frames from 320, 480 and 640


def test_centred_frames_mirror_the_beginning(clips):
    wave = clips([4_000])["waveform"]
    mirrored = torch.cat([wave[:, 1:201].flip(1), wave], dim=1)
    wanted = Mel(16_000, 400, 160, 40)(mirrored)
    assert torch.allclose(Mel(16_000, 400, 160, 40, centred=True)(wave), wanted[:, :25])


def test_triangles_are_those_that_others_use():
    from autotransfer.plugin import mend_torchvision

    mend_torchvision()
    from transformers.audio_utils import mel_filter_bank

    for low, high, mels in ((0.0, 8000.0, 80), (60.0, 3800.0, 32)):
        theirs = mel_filter_bank(257, mels, low, high, 16_000, norm="slaney", mel_scale="slaney")
        assert np.allclose(mel_filters(16_000, 512, mels, low, high), theirs, atol=1e-12)
    peaks = mel_filters(16_000, 4096, 20, area=False).max(0)
    assert peaks.min() > 0.9
    assert peaks.max() <= 1.0


def test_a_recording_s_gain_does_not_count(clips):
    inputs = clips([16_000, 9_000])
    front = LogMel()
    once = front(inputs["waveform"], inputs["attention_mask"])
    louder = front(inputs["waveform"] * 3, inputs["attention_mask"])
    assert float((once - louder).abs().mean()) < 1e-4
    held = mask_of(frames_of(lengths_of(inputs["attention_mask"]), 160), once.shape[1])
    assert not once[~held].any()
    for row in range(2):
        own = once[row][held[row]]
        assert abs(float(own.mean())) < 1e-4
        assert float(own.std(correction=0)) == pytest.approx(1.0, abs=1e-4)


def test_means_are_taken_over_a_clip_s_own_frames():
    values = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert masked_mean(values, mask).tolist() == [[2.0], [7.0]]
    assert masked_mean(values, torch.zeros_like(mask)).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("network", [Cnn(width=32), Lstm(hidden=16)], ids=["cnn", "lstm"])
def test_padding_and_other_clips_do_not_count(network, padding_does_not_count):
    padding_does_not_count(network.eval())


@pytest.mark.parametrize("network", [Cnn(width=32), Lstm(hidden=16)], ids=["cnn", "lstm"])
def test_silence_and_nothing_at_all_give_finite_features(network):
    network.eval()
    silent = {"waveform": torch.zeros(2, 4_000), "attention_mask": torch.tensor([[1] * 4_000, [0] * 4_000])}
    assert network(**silent).isfinite().all()


def test_a_network_hears_a_difference(clips):
    network = Cnn(width=32).eval()
    inputs = clips([16_000, 16_000])
    with torch.no_grad():
        first, second = network(**inputs)
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_encoders_train_in_half_precision_too(clips):
    for network in (cnn(None, width=16), lstm(None, hidden=8)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(**clips([8_000, 3_000]))
        assert found.dtype == torch.float32
        found.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
