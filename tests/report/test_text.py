"""The text report and the model card say what happened, and do not say more."""

from dataclasses import replace

import pytest

from autotransfer.report.card import model_card
from autotransfer.report.text import render, share, verdict
from autotransfer.report.text import winner_of as won
from autotransfer.schema import Candidate
from autotransfer.spec import BackboneSpec


def test_the_report_says_everything_that_the_layout_asks_for(run):
    text = render(run, saved="runs/pets/model")
    for part in (
        "data     pets: 1,240 images, 3 classes (3.1 : 1), multiclass, judged by accuracy; 794 train, 199 validation",
        "3 images cannot be read and were left out",
        "survey   2/3 backbones   best closed-form probe .850 acme/net",
        "search   4 trials, 1 failed   best .912 on the validation rows",
        "winner   acme/net, strategy core/partial, freeze 1/3, lr 0.001, lr_ratio 0.1, epochs 10",
        "tried because: the default recipe",
        "test     accuracy .908 (95 %: .884 to .931; 310 rows, used once)   baseline .512",
        "cost     4:12 wall, 7:40 CPU = 0.9 of one full fine-tune",
        "saved    runs/pets/model",
        "hub/gone: skipped: its weights are not in the cache",
        "acme/nan: failed: the loss is not finite",
        "one worker was replaced",
        "winner: batches were halved",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.9, 0.85, 0.95, 0.5), "lies outside the interval: transfer pays here"),
        ((0.9, 0.85, 0.95, 0.86), "it is not shown that transfer pays here"),
        ((0.9, 0.85, 0.95, 0.85), "it is not shown that transfer pays here"),
        ((0.9, 0.85, 0.95, 0.9), "Transfer does not pay here"),
        ((0.9, 0.85, 0.95, 0.97), "Transfer does not pay here"),
    ],
)
def test_the_verdict_follows_the_interval(judged, scores, said):
    run = judged(*scores)
    assert said in verdict(run.test, run.baseline)
    assert said in render(run)


def test_the_verdict_knows_that_lower_errors_are_better(of_numbers):
    assert "lies outside the interval: transfer pays here" in verdict(of_numbers.test, of_numbers.baseline)
    assert "Transfer does not pay here" in verdict(of_numbers.baseline, of_numbers.test)


def test_a_run_in_which_no_pretrained_backbone_was_scored_does_not_judge_transfer(judged):
    run = judged(0.4, 0.3, 0.5, 0.4)
    plain = Candidate(recipe=replace(run.trials[0].recipe, backbone="baselines/pixels"), reason="baseline")
    tried = replace(run.trials[0], recipe=plain.recipe, objective=0.4, status="done")
    failed = replace(run.trials[-1], objective=None, status="failed")
    untried = replace(run, plan=replace(run.plan, candidates=(plain,)), trials=(tried, failed))
    assert "it is not known whether transfer pays here" in render(untried)
    assert "Transfer does not pay here" not in render(untried)
    assert "Transfer does not pay here" in render(replace(untried, trials=(tried, *run.trials)))


def test_what_was_not_measured_is_said_not_invented(run):
    bare = replace(run, test=None, baseline=None, unit_cpu_seconds=None, trials=run.trials[:1], survey=())
    text = render(bare)
    assert "not measured: there are no held-out rows" in text
    assert "full fine-tune" not in text
    assert "survey   0/0 backbones\n" in text
    assert "winner   t002" in text
    assert "saved" not in text
    assert (share(bare), won(bare)) == (None, None)
    assert "no baseline was measured" in render(replace(run, baseline=None))


@pytest.mark.parametrize(("status", "said"), [("budget", "the budget ended"), ("interrupted", "it was interrupted")])
def test_a_run_that_stopped_early_says_so(run, status, said):
    assert f"stopped early: {said}" in render(replace(run, status=status))
    assert "stopped early" not in render(run)


def test_downloads_are_told_apart(run):
    assert "downloads took 0:12 more" in render(replace(run, download_seconds=12))
    assert "downloads" not in render(run)


def test_a_long_leaderboard_is_shortened_and_says_so(run):
    assert "... and 4 more" in render(run, top=3)


def test_the_card_has_data_score_licence_and_origin(run):
    spec = BackboneSpec(
        id="acme/net", factory="acme:net", licence="MIT", pretrained_on="drawings", summary="four convolutions"
    )
    card = model_card(run, spec, run.trials[1].recipe)
    for part in (
        "# acme/net, fine-tuned for multiclass",
        "one of the classes cat, dog, owl",
        "licence of the pretrained weights: MIT",
        "pretrained on: drawings",
        "four convolutions",
        "accuracy .908 (95 %: .884 to .931; 310 rows)",
        "| freeze | 1/3 |",
        "| lr | 0.001 |",
        "0.9 of one full fine-tune",
        "autotransfer.load",
        "transfer pays here",
    ):
        assert part in card


def test_the_card_of_what_is_not_known_says_so(run, of_numbers):
    spec = BackboneSpec(id="acme/net", factory="acme:net")
    card = model_card(replace(of_numbers, test=None, baseline=None), spec, run.trials[0].recipe)
    assert "It gives a number." in card
    assert "it was not measured" in card
    assert "licence of the pretrained weights: unknown" in card
    assert "pretrained on: not said by its card" in card
