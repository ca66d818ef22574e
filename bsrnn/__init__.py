"""Refined BSRNN: band-split RNN music source separation with a generic band schema, multi-task learning and transfer.

    bands       band schemas: the paper's and the generic one
    model       BSRNN: mixture spectrogram in, one estimate per source out
    configs     models by name, and what they cost
    devices     where a model runs, and in which precision
    audio       decode, encode, resample, normalize waveforms
    spectral    STFT, its inverse, standardization
    separate    a song to its stems, in memory or from file to files
    demo        a generated data set in MUSDB18-HQ layout
    data        songs, splits, training samples
    losses      what training minimizes
    metrics     uSDR, cSDR and SI-SDR
    study       the runs that a profile asks for
    statistics  summaries of scores, paired differences and their support
    settings    how a training goes
    train       training, transfer, resumption
    evaluate    scores over the songs of a split, baselines and oracles among them
    bsseval     BSSEval by museval, in processes of its own
    records     where results lie and how they are written
    plots       every figure
    listening   a form to hear what a model makes of a song, in a notebook
    cli         the command line

A song:  audio.Recording -> separate.Separator -> audio.Encoder.
An experiment:  a profile -> train.fit -> evaluate.evaluate -> records.publish -> plots.
"""
