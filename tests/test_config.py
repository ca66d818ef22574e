from dataclasses import fields, replace

import pytest
import torch
from plain import PlainBSRNN
from torch.utils.flop_counter import FlopCounterMode

from bsrnn.bands import BIN_CONVENTIONS
from bsrnn.config import CONFIGS, Config, costs, describe, named_config
from bsrnn.model import BSRNN

# parameters, mono, of vocals, other, bass and drums
FAMILIES = {
    "paper": (25_648_264, 25_648_264, 24_917_512, 26_578_312),  # section IV-A4
    "authors": (36_417_160, 36_417_160, 32_797_192, 41_024_392),  # their later code, with its two hidden layers
    "bsrnn-large": (36_417_160, 36_417_160, 32_797_192, 41_024_392),  # published with its weights: arXiv 2603.09187
    "obsrnn": (40_777_192, 40_777_192, 37_072_744, 45_491_944),  # likewise
}
STEMS = ("vocals", "other", "bass", "drums")
PAPER = {f"{family}-{stem}": counts[i] for family, counts in FAMILIES.items() for i, stem in enumerate(STEMS)}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_every_module(name):
    with torch.device("meta"):
        model = BSRNN(named_config(name))
    for cost in costs(model.config):
        assert cost.parameters == sum(p.numel() for p in model.get_submodule(cost.module).parameters()), cost.module
    total = sum(p.numel() for p in model.parameters())
    assert total == sum(cost.parameters for cost in costs(model.config))
    assert total == (PAPER | {"obsrnn-simo": 108_727_540}).get(name, total)


@pytest.mark.parametrize("name", ["paper-vocals", "authors-drums"])
@pytest.mark.parametrize("convention", BIN_CONVENTIONS)
def test_parameters_of_the_rnns(name, convention):
    _, rnns, _ = costs(replace(named_config(name), bin_convention=convention))
    assert rnns.parameters == 20_554_752


def test_parameters_of_the_parts_that_are_shared():
    with torch.device("meta"):
        model = BSRNN(named_config("obsrnn-simo"))
    parts = (model.band_split, model.band_sequence, model.band_sequence.tac, model.band_sequence.attention, model.heads)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [273_796, 25_037_664, 3_549_708, 933_204, 83_416_080]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"schema": "drums", "mlp_layers": 2},
        {"schema": "v3", "mlp_layers": 3},
        {"tac": True, "attention_heads": 2, "attention_dim": 5, "chunk": 0.06},
    ],
)
def test_macs_are_those_of_the_matrix_products(change):
    sizes = {"n_fft": 1024, "feature_dim": 6, "hidden_dim": 5, "num_blstm_layers": 2, "mlp_dim": 7}
    config = Config(("a", "b"), **(sizes | change))
    frames = config.chunk_frames if config.attention_heads else 11
    with FlopCounterMode(display=False) as counter, torch.backends.mkldnn.flags(enabled=False), torch.no_grad():
        # without oneDNN the LSTM is made of products that can be counted
        PlainBSRNN(BSRNN(config))(torch.randn(1, 1, config.n_fft // 2 + 1, frames, dtype=torch.complex64))
    frames_per_second = (round(config.chunk * config.sample_rate) // (config.n_fft // 4) + 1) / config.chunk
    expected = sum(cost.macs for cost in costs(config)) / frames_per_second * frames
    assert counter.get_total_flops() == pytest.approx(2 * expected, rel=1e-9)


def test_description():
    text = describe(named_config("authors-drums"))
    for expected in ("55 (drums, floor)", "41,024,392", "20,554,752", "259 frames", "heads.drums", "98.850"):
        assert expected in text
    assert "with their first bins at these Hz:\n                0 43 86 129" in text


def test_sizes_are_bounded_together():
    sizes = ("feature_dim", "hidden_dim", "num_blstm_layers", "mlp_dim", "mlp_layers")
    most = {item.name: item.metadata["most"] for item in fields(Config) if item.name in sizes}
    for name in most:
        assert Config(**dict.fromkeys(sizes, 1) | {name: most[name]})
    with pytest.raises(ValueError, match=r"^a model has at most 2,000,000,000 parameters, not [\d,]+: choose smaller"):
        Config(**most)


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown model 'paper': choose from paper-vocals"):
        named_config("paper")
