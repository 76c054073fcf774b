import dataclasses

import pytest

SLOW_AND_QUICK = {"separate": 1, "cached vision": 1, "packed": 2, "expanded cache": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("llava")


@pytest.fixture
def adapter(load_benchmark, folder):
    from lumen.lmm.adapter import HFAdapter

    llava = load_benchmark("_llava")
    sizes = llava.LlavaSizes(layers=2, width=64, mlp_width=64, vision_layers=2, vision_width=64, image_side=42)
    if not any(folder.iterdir()):
        llava.make_llava(folder, sizes)
    return HFAdapter(str(folder)).eval()


def test_all_ways_agree_and_are_printed(load_benchmark, adapter, capsys):
    bench = load_benchmark("prompt_cost")
    assert bench.measure(adapter, 3, 4, SLOW_AND_QUICK, bench.Bars()) == []
    printed = capsys.readouterr().out
    assert all(name in printed for name in SLOW_AND_QUICK)


def test_a_ratio_below_its_bar_is_reported(load_benchmark, adapter):
    bench = load_benchmark("prompt_cost")
    bars = bench.Bars(cached_vision=1e6, token_share=1e6, expanded_cache=1e6)
    failures = bench.measure(adapter, 2, 3, SLOW_AND_QUICK, bars)
    assert len(failures) == 3
    assert all("the bar is 1e+06" in failure for failure in failures)


def test_the_token_ratio_counts_prefix_and_suffixes(load_benchmark, adapter):
    ways = load_benchmark("prompt_cost").Ways(adapter, 5, 4)
    length = len(ways.prefix)
    assert ways.prefix.count(adapter.config.image_token_id) == 9
    assert ways.token_ratio == pytest.approx(5 * (length + 4) / (length + 5 * 4))


def test_prompts_have_the_wanted_length_or_raise(load_benchmark, adapter):
    bench = load_benchmark("prompt_cost")
    prompts = bench.make_prompts(adapter, 6, 12)
    assert {len(adapter.encoder.suffix(prompt.text, "detection").ids) for prompt in prompts} == {12}
    adapter.encoder.template = dataclasses.replace(adapter.encoder.template, after=" here [LOC]")
    adapter.encoder._suffixes.clear()
    with pytest.raises(ValueError, match=r"end in \[LOC\]"):
        bench.make_prompts(adapter, 6, 12)
