"""Band schemas: where a spectrogram is cut along frequency. A schema is a list of frequencies in Hz and knows no sample
rate. The hand-made ones are those of Luo & Yu (arXiv 2209.15174, section V-A); the generic one is spaced evenly on the
note axis and is this project's proposal."""

import math
import re
from dataclasses import dataclass
from itertools import accumulate, pairwise

A4 = 440.0  # Hz, the reference of equal temperament
HEARING = (20.0, 20_000.0)  # Hz, the range the generic schema covers
BIN_CONVENTIONS = ("centre", "floor")


@dataclass(frozen=True)
class BandSchema:
    """A division of the frequency axis into bands."""

    name: str  # what `band_schema` finds it by
    edges: tuple[float, ...]  # upper limits in Hz of all bands but the last, ascending; the last one ends at Nyquist

    def __post_init__(self):
        if not all(0 < low < high for low, high in pairwise(self.edges)):
            raise ValueError(f"band schema {self.name!r}: edges must be positive and ascending")

    def bins(self, sample_rate: int, n_fft: int, convention: str = "centre") -> tuple[tuple[int, int], ...]:
        """Half-open bin ranges, one per band, that partition the F = n_fft // 2 + 1 bins at a sample rate in Hz. Bands
        that hold no bin (narrower than the STFT's resolution, or above Nyquist) vanish. The paper does not say how Hz
        become bins. By the convention "centre", our choice, a bin belongs to the band in which its centre frequency
        lies. By "floor", that of the authors' public code, a band of W Hz has floor(W / Nyquist * F) bins, and the last
        has the rest; edges then drift downwards, V7's last one from 20 to 19.6 kHz at 44.1 kHz and 2048."""
        count = n_fft // 2 + 1
        # the tolerance keeps what is a whole number of bins from being rounded past it
        if convention == "centre":
            cuts = (math.ceil(edge * n_fft / sample_rate - 1e-9) for edge in self.edges)
        elif convention == "floor":
            widths = (high - low for low, high in pairwise((0.0, *self.edges)))
            cuts = accumulate(math.floor(width * 2 * count / sample_rate + 1e-9) for width in widths)
        else:
            raise ValueError(f"unknown bin convention {convention!r}: choose from {', '.join(BIN_CONVENTIONS)}")
        return tuple(pairwise(sorted({0, count, *(cut for cut in cuts if cut < count)})))


def _steps(*parts: tuple[int, int]) -> tuple[float, ...]:
    """Edges from (upper limit, bandwidth) pairs in Hz, the paper's notation; a bandwidth divides its part."""
    return tuple(
        float(edge)
        for (low, _), (limit, width) in pairwise([(0, 0), *parts])
        for edge in range(low + width, limit + 1, width)
    )


# Luo & Yu, section V-A; `joint` is drums' split refined at the top, as in SIMO-BSRNN (arXiv 2603.09187).
PAPER_SCHEMAS = {
    "v1": _steps((21_000, 1_000)),
    "v2": _steps((16_000, 1_000), (20_000, 2_000)),
    "v3": _steps((8_000, 1_000), (16_000, 2_000), (20_000, 4_000)),
    "v4": _steps((1_000, 100), (8_000, 1_000), (16_000, 2_000), (20_000, 4_000)),
    "v5": _steps((1_000, 100), (16_000, 1_000), (20_000, 2_000)),
    "v6": _steps((1_000, 100), (4_000, 500), (8_000, 1_000), (16_000, 2_000), (20_000, 4_000)),
    "v7": _steps((1_000, 100), (4_000, 250), (8_000, 500), (16_000, 1_000), (20_000, 2_000)),
    "bass": _steps((500, 50), (1_000, 100), (4_000, 500), (8_000, 1_000), (16_000, 2_000)),
    "drums": _steps((1_000, 50), (2_000, 100), (4_000, 250), (8_000, 500), (16_000, 1_000)),
    "joint": _steps((1_000, 50), (2_000, 100), (4_000, 250), (8_000, 500), (16_000, 1_000), (20_000, 2_000)),
}
PAPER_SCHEMAS["vocals"] = PAPER_SCHEMAS["other"] = PAPER_SCHEMAS["v7"]


def generic_schema(divisions: int = 24, bands: int = 41) -> BandSchema:
    """Bands evenly spaced on the note axis, one schema for every instrument (Refined BSRNN; not in the paper). Of the
    notes of `divisions` per octave, an even number, within hearing (20 Hz to 20 kHz, A4 = 440 Hz), every second is a
    candidate: with 24, the quarter tones that are not semitones, so that every semitone lies within a band. `bands` of
    them, evenly by index, are upper edges; one more band reaches Nyquist."""
    if divisions < 2 or divisions % 2:
        raise ValueError(f"divisions per octave must be even and at least 2, not {divisions}")
    low, high = (divisions * math.log2(limit / A4) for limit in HEARING)
    candidates = [A4 * 2 ** (n / divisions) for n in range(math.ceil(low), math.floor(high) + 1) if n % 2]
    if not 1 <= bands <= len(candidates):
        raise ValueError(f"{divisions} divisions per octave allow 1 to {len(candidates)} bands, not {bands}")
    name = "generic" if (divisions, bands) == (24, 41) else f"generic-{divisions}-{bands}"
    return BandSchema(name, tuple(candidates[i * len(candidates) // bands] for i in range(bands)))


def band_schema(name: str) -> BandSchema:
    """The schema of that name: one of `SCHEMA_NAMES`, or generic-DIVISIONS-EDGES, such as generic-48-60; ValueError if
    there is none."""
    if match := re.fullmatch(r"generic(?:-(\d{1,4})-(\d{1,4}))?", name):  # longer numbers would take long to refuse
        return generic_schema(*(int(group) for group in match.groups() if group))
    if name in PAPER_SCHEMAS:
        return BandSchema(name, PAPER_SCHEMAS[name])
    raise ValueError(f"unknown band schema {name!r}: choose from {', '.join(SCHEMA_NAMES)}, or generic-DIVISIONS-EDGES")


SCHEMA_NAMES = (*PAPER_SCHEMAS, "generic")
