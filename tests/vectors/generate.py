"""Makes the regression vectors: small models with random weights, an input, and what they estimate.

Run it (`python tests/vectors/generate.py`) only when the model is meant to change what it computes.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from bsrnn import checkpoint
from bsrnn.config import Config
from bsrnn.model import BSRNN

HERE = Path(__file__).parent
SIZES = {
    "n_fft": 256,
    "sample_rate": 16_000,
    "chunk": 0.2,
    "feature_dim": 6,
    "hidden_dim": 5,
    "num_blstm_layers": 2,
    "mlp_dim": 7,
}
CONFIGS = {
    "refined": Config(("drums", "bass"), "generic", **SIZES),
    "paper": Config(("vocals",), "v7", **SIZES, standardize=False),
    "authors": Config(("bass",), "bass", **SIZES, standardize=False, mlp_layers=2, bin_convention="floor", eps=2**-23),
}


def main() -> None:
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = BSRNN(config).eval()
        for parameter in model.parameters():  # norms are not left at one and zero
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
        mixture = torch.randn(2, 2, config.n_fft // 2 + 1, 13, dtype=torch.complex64)
        checkpoint.save(model, HERE / name)
        with torch.no_grad():
            vectors = {"mixture": mixture, "estimates": model(mixture)}
        save_file(
            {key: torch.view_as_real(value).contiguous() for key, value in vectors.items()},
            HERE / name / "vectors.safetensors",
        )


if __name__ == "__main__":
    main()
