import json

import pytest
import torch
from reference import PlainBSRNN

from bsrnn.model import BSRNN, Config

SMALL = {"feature_dim": 6, "hidden_dim": 5, "num_blstm_layers": 2, "mlp_dim": 7}


def spectrogram(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


@pytest.mark.parametrize("schema", ["v1", "v7", "drums", "generic", "generic-36-57"])
@pytest.mark.parametrize(("sample_rate", "n_fft"), [(44_100, 2048), (16_000, 512)])
def test_equals_plain_definition(schema, sample_rate, n_fft):
    torch.manual_seed(1)
    config = Config(("bass", "drums"), schema, sample_rate, n_fft, **SMALL)
    model = BSRNN(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter)
    mixture = spectrogram(2, 2, n_fft // 2 + 1, 9)
    fast, plain = model(mixture), PlainBSRNN(model)(mixture)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    weights = torch.randn(fast.shape)
    parameters = list(model.parameters())
    fast_grads = torch.autograd.grad((fast.abs() * weights).sum(), parameters)
    plain_grads = torch.autograd.grad((plain.abs() * weights).sum(), parameters)
    for ours, reference in zip(fast_grads, plain_grads, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=2e-5 * float(reference.abs().max()))


def test_parameter_count_of_the_paper():
    # 25,648,264 by the paper's text for vocals with V7, one hidden layer: independent of where the bins are cut
    assert sum(p.numel() for p in BSRNN(Config(schema="v7")).parameters()) == 25_648_264


@pytest.mark.parametrize("frames", [1, 2, 31])
@pytest.mark.parametrize("channels", [1, 2])
def test_shapes(frames, channels):
    model = BSRNN(Config(("vocals", "bass", "other"), n_fft=512, **SMALL))
    mixture = spectrogram(2, channels, 257, frames)
    assert model(mixture).shape == (2, 3, channels, 257, frames)
    assert torch.isfinite(torch.view_as_real(model(torch.zeros_like(mixture)))).all()


def test_channels_are_independent():
    model = BSRNN(Config(n_fft=512, **SMALL))
    mixture = spectrogram(1, 2, 257, 12)
    for channel in range(2):
        alone = model(mixture[:, channel : channel + 1])
        torch.testing.assert_close(model(mixture)[:, :, channel : channel + 1], alone, rtol=1e-4, atol=1e-5)


def test_identity_mask_returns_the_mixture(identity):
    mixture = spectrogram(2, 2, 257, 9)
    assert torch.equal(identity(("bass",))(mixture)[:, 0], mixture)


def test_masks_ignore_the_level():
    model = BSRNN(Config(n_fft=512, **SMALL))
    mixture = spectrogram(1, 1, 257, 12)
    torch.testing.assert_close(model(100 * mixture), 100 * model(mixture), rtol=1e-3, atol=1e-2)


def test_new_heads_on_the_same_extractor():
    model = BSRNN(Config(("drums",), n_fft=512, **SMALL))
    transferred = model.with_heads(["bass", "other"]).freeze_extractor()
    assert transferred.config.sources == ("bass", "other")
    assert all(torch.equal(a, b) for a, b in zip(model.band_split.parameters(), transferred.band_split.parameters(),
                                                 strict=True))  # fmt: skip
    trainable = {name.split(".")[0] for name, p in transferred.named_parameters() if p.requires_grad}
    assert trainable == {"heads"}
    assert transferred.band_split.weight.data_ptr() != model.band_split.weight.data_ptr()


def test_save_and_load(tmp_path):
    model = BSRNN(Config(("drums", "bass"), "v3", n_fft=512, **SMALL)).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = BSRNN.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    mixture = spectrogram(1, 1, 257, 5)
    assert torch.equal(loaded(mixture), model(mixture))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_another_architecture_is_refused(tmp_path):
    BSRNN(Config(n_fft=512, **SMALL)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [({"feature_dim": 8}, "another architecture"), ({"layers": 2}, "another architecture"),
                            ({"schema": "v8"}, "unknown band schema")]:  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message) as error:
            BSRNN.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ValueError, match="damaged"):
        BSRNN.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no model"):
        BSRNN.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrong", [{"sources": ()}, {"sources": ("a", "a")}, {"n_fft": 1023}, {"mlp_dim": 0}])
def test_wrong_configuration(wrong):
    with pytest.raises(ValueError):
        Config(**wrong)
