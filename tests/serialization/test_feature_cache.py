import copy
import json
import pickle

import pytest
import torch
from helpers import make_sample

from lumen.errors import DataError
from lumen.serialization.feature_cache import (
    MANIFEST,
    WEIGHTS,
    CacheWriter,
    FeatureCache,
    shard_name,
)
from lumen.structures import Prompt

MANIFEST_PARTS = {"weights": {"w": torch.arange(3.0)}, "data": {"dataset": "d"}, "model": {"base_model": "m"}}


def features(number):
    return {
        "grid": torch.full((2, 3, 4), float(number)),
        "query": torch.full((number, 5), float(number)),
        "prompt_index": torch.arange(number),
    }


def sample(number):
    made = make_sample([f"thing {at}" for at in range(number)], [[1, 2, 3, 4]] * number, list(range(number)))
    made.gt_instances.masks = torch.eye(4, dtype=torch.bool).expand(number, 4, 4)
    made.gt_instances.words = [["a", number]] * number
    made.set_field((0.5, 1.5), "box", field_type="metainfo")
    return made


def write(folder, count=5, **changes):
    with CacheWriter(folder, images_per_shard=2) as writer:
        for number in range(count):
            writer.add(features(number), sample(number))
        writer.finish(**(MANIFEST_PARTS | changes))
    return FeatureCache(folder)


def test_what_is_written_is_read(tmp_path):
    cache = write(tmp_path / "c")
    assert len(cache) == 5
    for number in range(5):
        read, found = cache.read(number)
        assert read.model == {"base_model": "m"}
        for key, value in features(number).items():
            assert torch.equal(read.get(key), value)
        assert found.prompts == tuple(Prompt(f"thing {at}", label=at) for at in range(number))
        assert found.frame == sample(number).frame
        assert found.box == (0.5, 1.5)
        assert torch.equal(found.gt_instances.masks, sample(number).gt_instances.masks)
        assert found.gt_instances.words == [["a", number]] * number
    with pytest.raises(IndexError):
        cache.read(5)
    assert torch.equal(cache.weights()["w"], torch.arange(3.0))


def test_the_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), CacheWriter(tmp_path / "c", images_per_shard=2) as writer:
        writer.add(features(1), sample(1))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    with pytest.raises(DataError, match="exists"):
        CacheWriter(tmp_path / "c", images_per_shard=2)


def test_an_empty_cache_is_a_cache(tmp_path):
    assert len(write(tmp_path / "c", 0)) == 0


def test_a_loader_worker_gets_a_copy(tmp_path):
    cache = write(tmp_path / "c")
    cache.read(0)
    for other in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert torch.equal(other.read(3)[0].grid, features(3)["grid"])


def test_a_broken_cache_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a feature cache"):
        FeatureCache(tmp_path)
    write(tmp_path / "c")
    file = tmp_path / "c" / shard_name(1)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"has {len(whole) - 1} bytes, expected {len(whole)}"):
        FeatureCache(tmp_path / "c")
    file.unlink()
    with pytest.raises(DataError, match="has 0 bytes"):
        FeatureCache(tmp_path / "c")
    manifest = tmp_path / "c" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 0'))
    with pytest.raises(DataError, match="format 0, expected 2"):
        FeatureCache(tmp_path / "c")


@pytest.mark.parametrize("place", [-1, 300, 20])
def test_a_flipped_bit_in_a_shard_is_found_when_it_is_read(tmp_path, place):
    write(tmp_path / "c")
    file = tmp_path / "c" / shard_name(1)
    content = bytearray(file.read_bytes())
    content[place] ^= 1  # the last number, the metadata, the table of contents
    file.write_bytes(content)
    cache = FeatureCache(tmp_path / "c")
    assert torch.equal(cache.read(0)[0].grid, features(0)["grid"])
    with pytest.raises(DataError, match="write the cache again"):
        for number in (2, 3):
            cache.read(number)


def test_damaged_weights_and_manifests_are_refused(tmp_path):
    cache = write(tmp_path / "c")
    weights = tmp_path / "c" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DataError, match="does not hold the weights"):
        cache.weights()
    manifest = tmp_path / "c" / MANIFEST
    whole = json.loads(manifest.read_text())
    changes = [[], 3, {**whole, "files": None}, {**whole, "images_per_shard": 0}, {**whole, "files": {"a": []}}]
    changes += [{key: value for key, value in whole.items() if key != lacking} for lacking in ("notes", "model")]
    for change in changes:
        manifest.write_text(json.dumps(change))
        with pytest.raises(DataError):
            FeatureCache(tmp_path / "c")


def test_objects_are_not_written(tmp_path):
    made = sample(1)
    made.set_field(object(), "thing", field_type="metainfo")
    with (
        pytest.raises(DataError, match="sample's thing cannot be cached"),
        CacheWriter(tmp_path / "c", images_per_shard=2) as writer,
    ):
        writer.add(features(1), made)
