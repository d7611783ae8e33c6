"""`rolloutsim catalogue`: every name with its figures."""

from simulator.catalogue import list_devices, list_models


def test_every_model_and_device_is_listed(shell):
    models, devices = (shell("catalogue", what).out.splitlines() for what in ("models", "devices"))
    assert [line.split()[0] for line in models[1:]] == list_models()
    assert [line.split()[0] for line in devices[1:]] == list_devices()
    assert shell("catalogue").out.splitlines() == [*models, "", *devices]


def test_a_line_says_what_a_model_and_a_device_are(shell):
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shell("catalogue").out.splitlines() if line}
    assert lines["gpt-oss-120b"] == "116.8 B 5.7 B 65 GB 74 kB 18 of 36 layers see 128 tokens, mxfp4 weights"
    assert lines["deepseek-v3"] == "671.0 B 37.6 B 673 GB 70 kB latent, fp8 weights"
    assert lines["qwen3-next-80b-a3b"].endswith("25 kB 36 of 48 layers linear")
    assert lines["qwen3-8b"] == "8.2 B 8.2 B 16 GB 147 kB"
    assert lines["h20"] == "102 GB 4.00 TB/s 148 296 - NVLink 4, 450 GB/s H20 SXM 96GB"
    wrong = shell("catalogue", "gpus")
    assert (wrong.code, "not one of 'models'" in wrong.err) == (2, True)
