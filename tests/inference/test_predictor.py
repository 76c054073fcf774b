import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mmengine import Config
from PIL import Image

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.errors import CheckpointError, ConfigError, DataError, PromptError
from lumen.inference.predictor import LumenPredictor
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.serialization.checkpoint import plain, save_checkpoint, trained_state

PHRASES = ("star", "red ring", "cat")


def _image(height=90, width=120, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def predictor(tiny_lumen):
    return LumenPredictor(tiny_lumen, input_hw=(64, 64))


def _check_equal(first, second, tolerance=1e-5):
    assert set(first.keys()) == set(second.keys())
    assert first.phrases == second.phrases
    assert torch.equal(first.labels, second.labels)
    torch.testing.assert_close(first.bboxes, second.bboxes, atol=120 * tolerance, rtol=tolerance)
    torch.testing.assert_close(first.scores, second.scores, atol=tolerance, rtol=tolerance)


def test_answers_name_their_phrase_and_lie_in_the_original_image(predictor):
    predictor.set_image(_image())
    result = predictor.predict(PHRASES, score_threshold=0.0)
    assert set(result.keys()) == {"bboxes", "scores", "labels", "peak_scores", "phrases"}
    assert len(result) > 0
    assert [PHRASES[label] for label in result.labels.tolist()] == result.phrases
    assert (result.bboxes >= 0).all()
    assert (result.bboxes[:, 2] <= 120).all() and (result.bboxes[:, 3] <= 90).all()
    assert result.bboxes[:, 2].max() > 64, "boxes are still in input pixels"
    assert torch.equal(result.scores, result.scores.sort(descending=True).values)


def test_asking_twice_equals_asking_once(predictor):
    predictor.set_image(_image())
    first = predictor.predict(PHRASES, score_threshold=0.0)
    predictor.heatmaps(["heart"])
    _check_equal(predictor.predict(PHRASES, score_threshold=0.0), first, tolerance=0)


def test_the_image_is_encoded_once(predictor, monkeypatch):
    calls = []
    encode = predictor.model.lmm.encode_images
    monkeypatch.setattr(
        predictor.model.lmm, "encode_images", lambda images, **how: calls.append(1) or encode(images, **how)
    )
    predictor.set_image(_image())
    predictor.predict(PHRASES)
    predictor.predict(PHRASES[:1])
    predictor.heatmaps(PHRASES)
    assert len(calls) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_batch_equals_single_images(predictor, batch_size):
    images = [_image(90, 120, 0), _image(64, 64, 1), _image(200, 50, 2)]
    batch = predictor.predict_batch(images, PHRASES, score_threshold=0.05, batch_size=batch_size)
    assert len(batch) == 3
    for image, answer in zip(images, batch, strict=True):
        predictor.set_image(image)
        _check_equal(predictor.predict(PHRASES, score_threshold=0.05), answer)


def test_a_batch_leaves_the_image_that_was_set(predictor):
    predictor.set_image(_image())
    before = predictor.predict(PHRASES)
    predictor.predict_batch([_image(50, 50, 3)], PHRASES)
    _check_equal(predictor.predict(PHRASES), before, tolerance=0)


def test_no_images_give_no_tables(predictor):
    assert predictor.predict_batch([], PHRASES) == []


def test_no_phrases_give_an_empty_table(predictor):
    predictor.set_image(_image())
    result = predictor.predict([])
    assert len(result) == 0
    assert result.bboxes.shape == (0, 4)
    assert result.phrases == []
    assert predictor.heatmaps([]).shape == (0, 90, 120)


def test_a_phrase_named_twice_gets_its_answers_twice(predictor):
    predictor.set_image(_image())
    result = predictor.predict(["star", "cat", "star"], score_threshold=0.0)
    first, last = result[result.labels == 0], result[result.labels == 2]
    assert len(first) > 0
    assert torch.equal(first.bboxes, last.bboxes) and torch.equal(first.scores, last.scores)
    heat = predictor.heatmaps(["star", "cat", "star"])
    assert torch.equal(heat[0], heat[2]) and not torch.equal(heat[0], heat[1])


def test_the_threshold_cuts_by_score(predictor):
    predictor.set_image(_image())
    everything = predictor.predict(PHRASES, score_threshold=0.0)
    threshold = float(everything.scores[3])
    assert len(predictor.predict(PHRASES, score_threshold=threshold)) == int((everything.scores >= threshold).sum())
    assert len(predictor.predict(PHRASES, score_threshold=1.0)) == 0


def test_a_heatmap_has_the_original_size_and_peaks_where_boxes_are_scored(predictor):
    predictor.set_image(_image())
    heat = predictor.heatmaps(["star"])
    assert heat.shape == (1, 90, 120)
    best = predictor.predict(["star"], score_threshold=0.0).scores.max()
    assert 0 < float(heat.max()) <= float(best) + 1e-5
    assert float(heat.max()) > 0.9 * float(best)


def test_a_heatmap_is_read_at_pixel_centres(predictor, monkeypatch):
    # Stride 8 on 64 pixels; the image is twice as large, so cell (row 2, col 5) covers rows 32-48, cols 80-96.
    predictor.set_image(_image(128, 128))
    share = predictor._shared.share

    def planted(encoded, samples):
        shared = share(encoded, samples)
        shared.heat_logits.fill_(-20.0)[0, 0, 2, 5] = 20.0
        shared.presence_logits.fill_(20.0)
        return shared

    monkeypatch.setattr(predictor._shared, "share", planted)
    heat = predictor.heatmaps(["star"])[0]
    rows, cols = (heat > 0.9).nonzero(as_tuple=True)
    assert (float(rows.float().mean()) + 0.5, float(cols.float().mean()) + 0.5) == (40.0, 88.0)


def test_path_array_and_pil_image_are_one_image(predictor, tmp_path):
    pixels = _image()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    answers = predictor.predict_batch(
        [pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png")], PHRASES
    )
    for answer in answers[1:]:
        _check_equal(answer, answers[0])


def test_bfloat16_answers_in_float32(tiny_lumen):
    predictor = LumenPredictor(tiny_lumen, input_hw=(64, 64), dtype=torch.bfloat16)
    predictor.set_image(_image())
    result = predictor.predict(PHRASES, score_threshold=0.0)
    assert result.bboxes.dtype == result.scores.dtype == torch.float32
    assert predictor.heatmaps(PHRASES).dtype == torch.float32


def test_classes_are_asked_where_no_phrase_is_named(tiny_lumen):
    predictor = LumenPredictor(tiny_lumen, input_hw=(64, 64), classes=PHRASES)
    predictor.set_image(_image())
    _check_equal(predictor.predict(score_threshold=0.0), predictor.predict(PHRASES, score_threshold=0.0), tolerance=0)


def test_wrong_use_is_explained(predictor):
    with pytest.raises(DataError, match="call set_image"):
        predictor.predict(PHRASES)
    predictor.set_image(_image())
    with pytest.raises(PromptError, match=r"write \['star'\]"):
        predictor.predict("star")
    with pytest.raises(PromptError, match="name the phrases"):
        predictor.predict()
    with pytest.raises(PromptError, match="not empty"):
        predictor.predict([" "])
    with pytest.raises(PromptError, match="no decoder for task"):
        predictor.predict(PHRASES, task="pose")
    with pytest.raises(ConfigError, match="batch_size"):
        predictor.predict_batch([_image()], PHRASES, batch_size=0)
    with pytest.raises(ConfigError, match="input_hw or views"):
        LumenPredictor(predictor.model, input_hw=(64, 64), views=predictor._views)
    with pytest.raises(ConfigError, match="dtype must be"):
        LumenPredictor(predictor.model, input_hw=(64, 64), dtype=torch.float16)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), Image.new("LA", (0, 4))],
)
def test_what_is_no_image_is_refused(predictor, image):
    with pytest.raises(DataError):
        predictor.set_image(image)


def _write_run(folder, model, nano, step):
    config = Config(
        {
            "model": {
                "type": "lumen.model.Lumen",
                "lmm": {
                    "type": "lumen.lmm.adapter.HFAdapter",
                    "name_or_path": str(nano),
                    "base": {"attention": "eager"},
                },
                "aligner": {
                    "type": "lumen.aligners.dense.DenseAligner",
                    "channels": 32,
                    "num_heads": 4,
                    "mlp_channels": 64,
                },
                "decoders": [{"type": "lumen.decoders.detection.DetectionDecoder"}],
            },
            "test_dataloader": {"dataset": {"pipeline": [{"type": "lumen.data.transforms.LoadImage"}, step]}},
        }
    )
    config.dump(folder / "run.py")
    save_checkpoint(folder / "iter_7.pth", plain({"state_dict": trained_state(model), "meta": {"iter": 7}}))
    return folder / "run.py", folder / "iter_7.pth"


@pytest.fixture
def plain_lumen(tiny_nano):
    torch.manual_seed(1)
    return Lumen(
        lmm={"type": HFAdapter, "name_or_path": str(tiny_nano), "base": {"attention": "eager"}},
        aligner={"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64},
        decoders=[{"type": DetectionDecoder}],
    )


@pytest.mark.parametrize("kind", ["lumen.data.transforms.ResizeToInput", "ResizeToInput"])
def test_a_checkpoint_gives_the_model_that_was_saved(tmp_path, plain_lumen, tiny_nano, kind):
    step = {"type": kind, "input_hw": (64, 96), "mode": "stretch", "pad_value": 3}
    config, checkpoint = _write_run(tmp_path, plain_lumen, tiny_nano, step)
    loaded = LumenPredictor.from_checkpoint(config, checkpoint, device="cpu")
    assert loaded.input_hw == (64, 96)
    assert loaded.description["iter"] == "7" and loaded.description["checkpoint"] == str(checkpoint)
    own = LumenPredictor(plain_lumen, input_hw=(64, 96), mode="stretch")
    for predictor in (own, loaded):
        predictor.set_image(_image())
    _check_equal(loaded.predict(PHRASES, score_threshold=0.0), own.predict(PHRASES, score_threshold=0.0), tolerance=0)


def test_a_missing_base_model_is_explained(tmp_path, plain_lumen):
    config, checkpoint = _write_run(
        tmp_path, plain_lumen, tmp_path / "gone", {"type": "ResizeToInput", "input_hw": (64, 64)}
    )
    with pytest.raises(CheckpointError, match="base model"):
        LumenPredictor.from_checkpoint(config, checkpoint)


@pytest.fixture
def splitting_predictor(tiny_nano):
    torch.manual_seed(0)
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1}
    lmm = {"type": HFAdapter, "name_or_path": str(tiny_nano), "base": {"attention": "sdpa"}}
    lmm["readout"] = {"add_phrase_state": True}
    return LumenPredictor(Lumen(lmm=lmm, aligner=aligner, decoders=[{"type": DetectionDecoder}]), input_hw=(64, 64))


def test_later_questions_reuse_the_prefix_and_answer_as_a_fresh_one(splitting_predictor):
    predictor, usage = splitting_predictor, splitting_predictor.model.lmm.usage
    predictor.set_image(_image())
    predictor.predict(["heart", "dog"])
    usage.clear()
    later = predictor.predict(PHRASES, score_threshold=0.0)
    suffixes = [predictor.model.lmm.encoder.suffix(phrase, "detection") for phrase in PHRASES]
    assert usage.tokens == sum(len(suffix.ids) for suffix in suffixes)
    predictor.set_image(_image())
    _check_equal(later, predictor.predict(PHRASES, score_threshold=0.0))
    _check_equal(later, predictor.predict_batch([_image()], PHRASES, score_threshold=0.0)[0])


def test_the_next_image_drops_what_was_kept_of_the_last(splitting_predictor):
    predictor = splitting_predictor
    predictor.set_image(_image())
    predictor.predict(PHRASES)
    first = predictor._asked._encoded.prefix_cache
    predictor.set_image(_image(seed=1))
    other = predictor.predict(PHRASES, score_threshold=0.0)
    assert predictor._asked._encoded.prefix_cache is not first
    assert len(predictor._asked._encoded.prefix_cache.kept) == 1
    _check_equal(other, predictor.predict_batch([_image(seed=1)], PHRASES, score_threshold=0.0)[0])


def test_a_predictor_takes_the_size_of_images_from_its_model(predictor):
    assert LumenPredictor(predictor.model).input_hw == predictor.model.inputs.input_hw


def test_threads_get_the_answers_of_their_own_images(predictor):
    images = [_image(seed=seed) for seed in range(2)]
    expected = predictor.predict_batch(images, PHRASES, score_threshold=0.0)
    assert not torch.equal(expected[0].scores, expected[1].scores)

    def ask(number):
        asked = predictor.image(images[number % 2])
        return number, asked.predict(PHRASES, score_threshold=0.0)

    with ThreadPoolExecutor(2) as pool:
        for number, answer in pool.map(ask, range(100)):
            _check_equal(answer, expected[number % 2])


def test_an_image_keeps_its_answers_when_another_is_set(predictor):
    asked = predictor.image(_image())
    with pytest.raises(DataError, match="no image was set"):
        predictor.predict(PHRASES)
    predictor.set_image(_image(seed=1))
    first = asked.predict(PHRASES, score_threshold=0.0)
    predictor.set_image(_image())
    _check_equal(first, predictor.predict(PHRASES, score_threshold=0.0))


def test_an_image_is_kept_when_its_array_is_written_to_again(predictor):
    image = _image()
    asked = predictor.image(image)
    first = asked.predict(PHRASES, score_threshold=0.0, tiles=60)
    image[:] = 0
    _check_equal(asked.predict(PHRASES, score_threshold=0.0, tiles=60), first, tolerance=0)


def test_a_model_in_training_mode_is_not_asked(predictor):
    predictor.model.train()
    with pytest.raises(ConfigError, match="the model is in training mode"):
        predictor.set_image(_image())


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), True, 10**400])
def test_a_threshold_that_is_not_a_finite_number_is_refused(predictor, threshold):
    predictor.set_image(_image())
    with pytest.raises(ConfigError, match="score_threshold must be a finite number"):
        predictor.predict(PHRASES, score_threshold=threshold)
    with pytest.raises(ConfigError, match="score_threshold must be a finite number"):
        predictor.predict_batch([_image()], PHRASES, score_threshold=threshold)


def test_phrases_and_sizes_that_cannot_be_are_refused(predictor):
    predictor.set_image(_image())
    with pytest.raises(PromptError, match="half of a surrogate pair"):
        predictor.predict(["a\ud83d"])
    with pytest.raises(PromptError, match="no decoder for task 'poses'"):
        predictor.predict(PHRASES, task="poses")
    for size in (0, -1, True):
        with pytest.raises(ConfigError, match="batch_size must be a whole number"):
            predictor.predict_batch([_image()], PHRASES, batch_size=size)


def test_images_and_heatmaps_beyond_a_bound_are_refused(predictor, monkeypatch):
    monkeypatch.setattr("lumen.data.image.MAX_PIXELS", 90 * 120)
    for image in (_image(91, 120), Image.fromarray(_image(91, 120))):
        with pytest.raises(DataError, match="120 x 91 pixels, the limit is 10800"):
            predictor.set_image(image)
    predictor.set_image(_image())
    monkeypatch.setattr("lumen.inference.asked_image.MAX_HEAT_BYTES", 2 * 4 * 90 * 120)
    assert len(predictor.heatmaps(["star", "cat"])) == 2
    with pytest.raises(DataError, match=r"heatmaps of 3 phrases on .* ask for fewer phrases"):
        predictor.heatmaps(["star", "star", "star"])


def test_a_pipe_is_not_waited_for(predictor, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a file"):
        predictor.set_image(tmp_path / "a.png")
