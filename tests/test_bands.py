import random
from itertools import pairwise
from math import log2

import pytest

from bsrnn.bands import SCHEMA_NAMES, BandSchema, band_schema, generic_schema

COUNTS = {"v1": 22, "v2": 19, "v3": 14, "v4": 23, "v5": 28, "v6": 26, "v7": 41, "bass": 30, "drums": 55, "joint": 57}
COUNTS |= {"vocals": 41, "other": 41, "generic": 36}


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_number_of_bands(name):
    assert len(band_schema(name).bins(44_100, 2048)) == COUNTS[name]


@pytest.mark.parametrize("name", [*SCHEMA_NAMES, "generic-12-30", "generic-48-100", "generic-24-1"])
@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("n_fft", [2, 64, 512, 1000, 2048, 4096, 8192])
def test_bins_partition(name, sample_rate, n_fft):
    schema = band_schema(name)
    bins = schema.bins(sample_rate, n_fft)
    assert bins[0][0] == 0
    assert bins[-1][1] == n_fft // 2 + 1
    assert all(start < stop for start, stop in bins)
    assert all(a[1] == b[0] for a, b in pairwise(bins))


@pytest.mark.parametrize("seed", range(20))
def test_bins_follow_the_centre_frequency(seed):
    draw = random.Random(seed)
    sample_rate, n_fft = draw.choice([16_000, 44_100, 48_000]), draw.choice([512, 2048, 6000])
    edges = sorted({draw.choice([draw.uniform(1, 30_000), draw.randrange(1, 300) * 50.0]) for _ in range(30)})
    bins = BandSchema("random", tuple(edges)).bins(sample_rate, n_fft)
    bands = [sum(edge * n_fft <= f * sample_rate for edge in edges) for f in range(n_fft // 2 + 1)]
    expected = [[f for f, band in enumerate(bands) if band == wanted] for wanted in sorted(set(bands))]
    assert [list(range(*part)) for part in bins] == expected


def test_generic_widths():
    widths = [stop - start for start, stop in generic_schema().bins(44_100, 2048)]
    assert " ".join(map(str, widths)) == (
        "1 1 1 1 1 1 2 1 1 2 2 2 3 4 4 5 6 7 8 11 11 15 11 18 23 27 32 37 45 54 64 75 90 108 127 224"
    )


def test_generic_edges_are_quarter_tones_between_semitones():
    schema = generic_schema()
    assert len(schema.edges) == 41
    assert all(abs((12 * log2(edge / 440)) % 1 - 0.5) < 1e-9 for edge in schema.edges)
    assert len(generic_schema(24, 120).edges) == 120
    with pytest.raises(ValueError, match="1 to 120"):
        generic_schema(24, 121)


@pytest.mark.parametrize("name", ["v8", "Generic", "", "generic-", "generic-24"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="unknown band schema"):
        band_schema(name)


@pytest.mark.parametrize("edges", [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (-1.0, 5.0)])
def test_edges_must_ascend(edges):
    with pytest.raises(ValueError, match="ascending"):
        BandSchema("wrong", edges)
