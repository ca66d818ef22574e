"""Options of commands that several tests give."""

MODEL_OPTIONS = (  # of `bsrnn train`, of a model that is small and quick
    "--sample_rate 8000 --n_fft 512 --chunk_size_in_seconds 0.2 --feature_dim 4 --hidden_dim 5 --num_blstm_layers 1 "
    "--mlp_dim 6 --schema generic-12-8"
).split()
