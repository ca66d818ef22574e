import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain import PlainBSRNN, per_band
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bsrnn import bands, checkpoint
from bsrnn.config import Config
from bsrnn.model import BSRNN

VECTORS = Path(__file__).parent / "vectors"  # made by generate.py there
SMALL = {"feature_dim": 6, "hidden_dim": 5, "num_blstm_layers": 2, "mlp_dim": 7}


def spectrogram(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


def random_config(draw, monkeypatch):
    """A configuration whose schema has bands of very different widths, some of a single bin."""
    sample_rate, n_fft = draw.choice([(44_100, 2048), (16_000, 512), (22_050, 1024)])
    edges = {20 * 1000 ** draw.random() for _ in range(draw.randrange(1, 60))}
    monkeypatch.setitem(bands.PAPER_SCHEMAS, "random", tuple(sorted(edges)))
    return Config(
        draw.choice([("vocals",), ("bass", "drums"), ("a", "b", "c")]),
        draw.choice(["random", "generic", "drums"]),
        sample_rate,
        n_fft,
        feature_dim=draw.randrange(2, 9),
        hidden_dim=draw.randrange(1, 9),
        num_blstm_layers=draw.randrange(1, 4),
        mlp_dim=draw.randrange(1, 12),
        mlp_layers=draw.randrange(1, 4),
        bin_convention=draw.choice(bands.BIN_CONVENTIONS),
        standardize=draw.random() < 0.5,
    )


@pytest.mark.parametrize("seed", range(16))  # the last of them with TAC, attention or both
@pytest.mark.parametrize(("dtype", "tolerance", "floor"), [(torch.float64, 1e-12, 0), (torch.float32, 1e-5, 1e-2)])
def test_equals_plain_definition(seed, dtype, tolerance, floor, monkeypatch):
    """In float32 gradients below a hundredth of the largest are measured by that hundredth: they are sums of larger
    terms, whose rounding errors they have; in float64 only those of queries and keys, zero for what all keys share."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads = draw.choice([1, 2, 3]) if seed in (12, 14, 15) else 0
    sizes = {"feature_dim": heads * draw.randrange(2, 4), "attention_dim": draw.randrange(1, 5)}
    config = random_config(draw, monkeypatch)
    config = replace(config, tac=seed >= 13, attention_heads=heads, **sizes if heads else {})
    model = BSRNN(config).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name or "activation" in name:
            torch.nn.init.normal_(parameter)
    plain = PlainBSRNN(model)
    mixture = spectrogram(draw.randrange(1, 3), draw.randrange(1, 3), config.n_fft // 2 + 1, draw.randrange(1, 12))
    mixture = mixture.to(dtype.to_complex())
    ours, theirs = model(mixture), plain(mixture)
    assert ours.dtype == mixture.dtype
    assert distance(ours, theirs) < tolerance
    weights = torch.randn_like(ours)
    (ours * weights).abs().sum().backward()
    (theirs * weights).abs().sum().backward()
    gradients = per_band({name: parameter.grad for name, parameter in model.named_parameters()}, config)
    assert gradients.keys() == dict(plain.named_parameters()).keys()
    scale = max(parameter.grad.norm() for parameter in plain.parameters())
    for name, parameter in plain.named_parameters():
        share = 1 if "queries" in name or "keys" in name else floor
        assert distance(gradients[name], parameter.grad, share * scale) < tolerance, name


def distance(ours, reference, least=0.0):
    """The norm of the difference relative to the reference's, or to the least that this counts as."""
    ours, reference = ours.detach(), reference.detach()
    return float((ours - reference).norm() / max(reference.norm(), least, 1e-300))


class Operations(TorchDispatchMode):
    """Counts what torch computes, backward passes too."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **kwargs or {})


class NoRNN(nn.Module):
    """Stands in for an LSTM, whose number of operations is a matter of torch's backend."""

    def forward(self, x):
        return torch.cat([x, x], -1), None


@pytest.mark.parametrize("widths", [[1, 2], [1, 5, 60], [3, 1, 1, 9, 17, 33]])
def test_operations_do_not_grow_with_the_bands(widths, monkeypatch):
    counts = set()
    for repeats in (2, 512 // sum(widths)):  # of 1025 bins of 1 Hz; what is left is one more band of 513 or more
        edges = torch.tensor(widths * repeats).cumsum(0)
        monkeypatch.setitem(bands.PAPER_SCHEMAS, "many", tuple(float(edge) - 0.5 for edge in edges))
        model = BSRNN(Config(("a", "b"), "many", 2048, 2048, **SMALL | {"hidden_dim": SMALL["feature_dim"]}))
        assert len(model.config.bins()) == len(edges) + 1
        for part in (*model.band_sequence.time, *model.band_sequence.band):
            part.rnn = NoRNN()
        with Operations() as operations:
            model(spectrogram(1, 2, 1025, 5)).abs().sum().backward()
        counts.add((len(model.band_split.bands.shapes), operations.count))
    assert len(counts) == 1


def test_no_parameter_is_padding():
    model = BSRNN(Config(("a",), "generic", **SMALL))
    mixture = spectrogram(1, 1, 1025, 7)
    model(mixture).abs().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("name", ["refined", "paper", "authors"])
def test_computes_what_it_always_has(name):
    vectors = load_file(VECTORS / name / "vectors.safetensors")
    mixture, estimates = (torch.view_as_complex(vectors[part]) for part in ("mixture", "estimates"))
    torch.testing.assert_close(checkpoint.load(VECTORS / name)(mixture), estimates, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 31])
@pytest.mark.parametrize("channels", [1, 2])
def test_shapes(frames, channels):
    model = BSRNN(Config(("vocals", "bass", "other"), n_fft=512, **SMALL))
    mixture = spectrogram(2, channels, 257, frames)
    assert model(mixture).shape == (2, 3, channels, 257, frames)
    assert torch.isfinite(torch.view_as_real(model(torch.zeros_like(mixture)))).all()


def test_channels_are_independent_and_masks_ignore_the_level():
    model = BSRNN(Config(n_fft=512, **SMALL))
    mixture = spectrogram(1, 2, 257, 12)
    estimates = model(mixture)
    for channel in range(2):
        alone = model(mixture[:, channel : channel + 1])
        torch.testing.assert_close(estimates[:, :, channel : channel + 1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(100 * mixture), 100 * estimates, rtol=1e-3, atol=1e-2)


def test_identity_mask_returns_the_mixture(identity):
    mixture = spectrogram(2, 2, 257, 9)
    assert torch.equal(identity(("bass",))(mixture)[:, 0], mixture)


def test_new_heads_on_the_same_extractor():
    model = BSRNN(Config(("drums",), n_fft=512, **SMALL))
    transferred = model.with_heads(["bass", "other"]).freeze_extractor()
    assert transferred.config.sources == ("bass", "other")
    before, after = (list(each.band_split.parameters()) for each in (model, transferred))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    trainable = {name.split(".")[0] for name, p in transferred.named_parameters() if p.requires_grad}
    assert trainable == {"heads"}
    assert transferred.band_split.weight.data_ptr() != model.band_split.weight.data_ptr()


def test_heads_are_named_like_their_sources(tmp_path):
    sources = ("keys", "values", "items", "pop", "0", "lead vocals")
    model = BSRNN(Config(sources, n_fft=512, **SMALL))
    assert {name.split(".")[1] for name in model.state_dict() if name.startswith("heads.")} == set(sources)
    checkpoint.save(model.with_heads(["bass"]).with_heads(sources).freeze_extractor(), tmp_path)
    loaded, mixture = checkpoint.load(tmp_path), spectrogram(1, 1, 257, 5)
    assert loaded(mixture).shape[1] == len(sources)
    expected = loaded(mixture)[:, [2, 4]]
    assert torch.equal(loaded.keep_heads(["items", "0"])(mixture), expected)


@pytest.mark.parametrize("source", ["training", "train", "forward", "_modules"])
def test_names_that_torch_uses_are_refused(source):
    with pytest.raises(ValueError, match=f"cannot be called '{source}'"):
        BSRNN(Config((source,), n_fft=512, **SMALL))


NO_NAMES = ("/tmp/x", "../x", "a/b", "a.b", "", "a\\b", "a\0", "a\nb", "\x1b[2J", 1, None, ["a"])


@pytest.mark.parametrize("sources", [*((name,) for name in NO_NAMES), "vocals"])  # a name alone is no list of names
def test_sources_are_plain_names(sources):
    with pytest.raises(ValueError, match=rf"different names .* not {re.escape(repr(sources))}"):
        Config(sources)


def test_kept_heads():
    model = BSRNN(Config(("drums", "bass", "vocals"), n_fft=512, **SMALL)).eval()
    mixture = torch.randn(1, 2, 257, 5, dtype=torch.complex64)
    expected = model(mixture)[:, [2, 0]]
    assert torch.equal(model.keep_heads(["vocals", "drums"])(mixture), expected)
    assert model.config.sources == ("vocals", "drums")


@pytest.mark.parametrize(
    "wrong", [{"sources": ()}, {"sources": ("a", "a")}, {"n_fft": 1023}, {"mlp_dim": 0}, {"eps": 0}, {"mlp_layers": 0}]
)
def test_wrong_configuration(wrong):
    with pytest.raises(ValueError):
        Config(**wrong)


def test_no_linear_layer_makes_copies_of_its_weights():
    """As torch's do for rows that do not lie one after another in memory, in bfloat16."""
    model = BSRNN(Config(n_fft=512, tac=True, attention_heads=2, **SMALL))
    for part in (*model.band_sequence.tac.modules(), *model.band_sequence.attention.modules()):
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    seen = []
    model(spectrogram(2, 2, 257, 5))
    assert len(seen) == 2 * (3 + 3 * 2 + 1) and all(seen)
