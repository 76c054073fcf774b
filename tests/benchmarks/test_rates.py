import torch


def test_the_rate_of_a_small_model_is_printed(load_benchmark, monkeypatch, capsys):
    rate = load_benchmark("detection_rate")
    small = ["--names", "3", "--batch", "2", "--rounds", "1", "--layers", "1", "--width", "64", "--mlp", "64"]
    monkeypatch.setattr("sys.argv", ["detection_rate.py", *small, "--vision-layers", "2", "--vision-width", "64"])
    threads = torch.get_num_threads()
    rate.main()
    torch.set_num_threads(threads)
    header, row = capsys.readouterr().out.splitlines()[-2:]
    assert header.split()[:2] == ["batch", "images/s"]
    assert row.split()[0] == "2" and float(row.split()[1]) > 0


def test_operations_of_an_image_by_hand(load_benchmark, tmp_path):
    rate = load_benchmark("detection_rate")
    llava = load_benchmark("_llava")
    model = rate.build_model(str(llava.make_llava(tmp_path, llava.LlavaSizes(1, 64, 64, 2, 64, rate.SIDE))), "float32")
    prefix = len(model.lmm.prefix((336, 336)))
    patches = 24 * 24 + 1
    tower = 2 * (24 * patches * 64**2 + 4 * patches**2 * 64)
    llm = 2 * prefix * 64 * (4 * 64 + 3 * 64) + 4 * (prefix * (prefix + 1) // 2) * 64
    assert rate.image_flops(model.lmm, 0) == tower + llm
    assert rate.image_flops(model.lmm, 2) > tower + llm
