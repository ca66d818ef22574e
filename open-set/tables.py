"""The tables of ORIGIN.md, made from songs.csv, voices/singers.csv and the recorded songs."""

import csv
import re
from collections import Counter
from pathlib import Path

import plan

FILE = plan.HERE / "ORIGIN.md"
SPLITS = ("train", "validation", "test")
COMPOSED_MINUTES, RECORDED_MINUTES = 1, 3  # of each song, at most


def markdown(header: list[str], rows: list[list]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def songs() -> str:
    """Songs, minutes and singers of each origin."""
    rows = []
    for origin, licence in plan.ORIGINS.items():
        composed = [song for song in plan.composed_songs() if song.origin == origin]
        recorded = plan.recorded_songs() if origin == "everythingisfree" else ()
        splits = Counter(song.split for song in (*composed, *recorded))
        minutes = COMPOSED_MINUTES * len(composed) + RECORDED_MINUTES * len(recorded)
        singers = len({song.singer.name for song in composed}) or "its own"
        rows.append([origin, licence, *(splits[split] for split in SPLITS), minutes, singers])
    return markdown(["origin", "licence", *SPLITS, "minutes", "singers"], rows)


def voices() -> str:
    """Singers and songs of each licence that clips carry."""
    singers, sung = plan.singers().values(), Counter(song.singer.licence for song in plan.composed_songs())
    count = Counter(singer.licence for singer in singers)
    rows = [[licence, count[licence], sung[licence]] for licence in sorted(count, key=lambda name: -count[name])]
    return markdown(["licence of the clips", "singers", "songs they sing"], rows)


def people() -> str:
    """Every singer with whom to credit."""
    with open(plan.HERE / "voices" / "singers.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return markdown(
        ["singer", "for", "licence", "credit", "source"],
        [[row["singer"], row["split"], row["licence"], row["credit"], row["source"]] for row in rows],
    )


def updated(text: str) -> str:
    """ORIGIN.md's text with its tables made anew."""
    for name, table in (("songs", songs()), ("voices", voices()), ("singers", people())):
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda match, table=table: match[1] + table + match[2], text)
    return text


if __name__ == "__main__":
    Path(FILE).write_text(updated(FILE.read_text(encoding="utf-8")), encoding="utf-8")
