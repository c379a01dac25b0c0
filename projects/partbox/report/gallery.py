"""The gallery: clean and perturbed images of each model side by side, as many as the page has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from .examples import FOLDER, INDEX, Example, read_examples
from .gallery_pictures import Part, difference_source, has_parts, part_numbers, parts_source, picture_source
from .result_files import ImageRecord, Run, role_of

WRONG_ON_CLEAN = "wrong on clean"
VERDICTS = ("correct", "fooled", WRONG_ON_CLEAN)
NOT_JUDGED = "not judged"
MOST_CARDS = 240  # a browser lays out no more at once on a phone, and nobody looks at more
MARKUP = 1500  # bytes of a card beside its pictures and names, roughly; the page as a whole is measured again


@dataclass(frozen=True)
class Shown:
    """A picture of a card: which one it is, its address, alternative text, caption, and the parts on it."""

    kind: str
    source: str
    alternative: str
    caption: str
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Card:
    """One image under one perturbation, beside the clean one."""

    model: str
    image_id: str
    perturbation: str
    label: str
    verdict: str
    confidence: float | None
    clean_confidence: float | None
    pictures: Sequence[Shown]

    @property
    def size(self) -> int:
        """Bytes in the page, roughly."""
        named = 4 * "".join((self.model, self.image_id, self.perturbation, self.label))
        texts = "".join(
            one.alternative + one.caption + "".join(part.name for part in one.parts) for one in self.pictures
        )
        # each part has its line; a sign of HTML in a name takes up to five
        parts = sum(len(one.source) + 200 * len(one.parts) for one in self.pictures)
        return MARKUP + parts + len(escape(named + texts).encode("utf-8", "backslashreplace"))


@dataclass
class Gallery:
    """All cards, and sentences on what is not among them."""

    cards: list[Card] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    found: int = 0

    @property
    def classes(self) -> list[str]:
        return sorted({card.label for card in self.cards if card.label})

    @property
    def perturbations(self) -> list[str]:
        return list(dict.fromkeys(card.perturbation for card in self.cards))

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(card.model for card in self.cards))

    @property
    def verdicts(self) -> list[str]:
        others = {card.verdict for card in self.cards} - set(VERDICTS)
        return [*VERDICTS, *sorted(others)]


def build_gallery(runs: Sequence[Run], room: int) -> Gallery:
    """Cards of all runs, attacks before noise and corruptions, until ``room`` bytes or ``MOST_CARDS`` are full.

    The runs' cards of an image under a perturbation follow each other; those that are wrong when clean, of which a
    classifier's show nothing, come last.

    Every run gets an equal share of both, and what one does not need is left to those after it.

    Raises:
        ExamplesError: example images of a run are damaged.
    """
    gallery = Gallery()
    without = [run.name for run in runs if not has_examples(run)]
    having = [run for run in runs if has_examples(run)]
    strange: list[str] = []
    for place, run in enumerate(having):
        left = room - sum(card.size for card in gallery.cards)
        waiting = len(having) - place
        examples = read_examples(_folder(run))
        verdicts = _verdicts(examples, run)
        if verdicts is None:
            strange.append(run.name)
            continue
        most = -(-(MOST_CARDS - len(gallery.cards)) // waiting)
        _add(gallery, run, examples, verdicts, left // waiting, most)
    places: dict[tuple[str, str], int] = {}
    for card in gallery.cards:
        places.setdefault((card.image_id, card.perturbation), len(places))
    gallery.cards.sort(key=lambda card: (card.verdict == WRONG_ON_CLEAN, places[card.image_id, card.perturbation]))
    if len(gallery.cards) < gallery.found:
        gallery.remarks.append(
            f"{len(gallery.cards)} of {gallery.found} examples are in this file: all of them would make it "
            "too large or too long. The others are in the folders examples/ of the runs."
        )
    if without:
        gallery.remarks.append(
            f"No example images are kept of {', '.join(without)} (ROBUST_EVAL.EXAMPLES 0, or an evaluation by "
            "an earlier version)."
        )
    if strange:
        gallery.remarks.append(
            f"The example images of {', '.join(strange)} are left out: they are of another evaluation than the results "
            "beside them. The same command again, with ROBUST_EVAL.EXAMPLES above 0, makes them anew."
        )
    return gallery


def has_examples(run: Run) -> bool:
    """Whether the run has example images."""
    return run.folder is not None and (run.folder / FOLDER / INDEX).is_file()


def _folder(run: Run) -> Path:
    assert run.folder is not None
    return run.folder / FOLDER


def _verdicts(examples: Sequence[Example], run: Run) -> dict[tuple[str, str], bool | None] | None:
    """Whether the model is right, by perturbation and image; None where the examples are not those of this run.

    Of a classifier the records say so, of which the numbers are made: an image that fooled it stays fooled where it
    answers otherwise when it sees it again, in another batch.
    """
    verdicts: dict[tuple[str, str], bool | None] = {}
    by_text = {name: {str(image): one for image, one in its.items()} for name, its in (run.records or {}).items()}
    for one in examples:
        verdict = one.correct
        if run.records is not None:
            record = by_text.get(one.perturbation, {}).get(one.image_id)
            if record is None or not _agree(one, record):
                return None
            verdict = not record.fooled if run.is_classifier else one.correct
        verdicts[one.perturbation, one.image_id] = verdict
    return verdicts


def _agree(example: Example, record: ImageRecord) -> bool:
    if record.label is not None:
        return record.fooled or example.correct is not False
    return example.correct == (record.found == record.objects if record.objects else None)


def _add(
    gallery: Gallery,
    run: Run,
    examples: Sequence[Example],
    verdicts: Mapping[tuple[str, str], bool | None],
    room: int,
    most: int,
) -> None:
    by_image: dict[str, dict[str, Example]] = {}
    for example in examples:
        by_image.setdefault(example.image_id, {})[example.perturbation] = example
    names = [name for name in run.entries if name != "clean"] or ["clean"]
    attacks = [name for name in names if role_of(run.entries[name]["settings"]) == "attack"]
    rest = [name for name in names if name not in attacks]
    wanted = [
        (its["clean"], its[name])
        for group in (attacks, rest)
        for its in by_image.values()
        for name in group
        if "clean" in its and name in its
    ]
    gallery.found += len(wanted)
    for clean, other in wanted[:most]:
        right = [verdicts[one.perturbation, one.image_id] for one in (clean, other)]
        card = make_card(run.name, clean, other, verdict_of(*right))
        room -= card.size
        if room < 0:
            return
        gallery.cards.append(card)


def verdict_of(clean: bool | None, other: bool | None) -> str:
    """Of an image that is right, or not, when clean and when perturbed: ``wrong on clean``, ``correct``, ``fooled``
    (right on the clean image alone), or ``not judged`` (None, of a segmenter).
    """
    if clean is None or other is None:
        return NOT_JUDGED
    if not clean:
        return WRONG_ON_CLEAN
    return "correct" if other else "fooled"


def make_card(model: str, clean: Example, other: Example, verdict: str) -> Card:
    """The card of an image under a perturbation; of the clean image alone where both are the same."""
    alone = other.perturbation == "clean"
    what = f"image {clean.image_id}" + (f" of class {clean.label}" if clean.label else "")
    pictures = [
        Shown("clean", picture_source(clean.image), f"{what}, clean: {_answer(clean)}", f"clean: {_answer(clean)}")
    ]
    if not alone:
        name = other.perturbation
        pictures.append(
            Shown(
                "adversarial",
                picture_source(other.image),
                f"{what}, {name}: {_answer(other)}",
                f"{name}: {_answer(other)}",
            )
        )
        if clean.image.shape == other.image.shape:
            source = difference_source(clean.image, other.image)
            words = f"{what}: what {name} changed, times 10, on grey"
            pictures.append(Shown("difference", source, words, "difference x 10"))
    numbers = part_numbers([clean, other])
    for example, kind in ((clean, "clean"), (other, "adversarial"))[: 1 if alone else 2]:
        if has_parts(example):
            source, parts = parts_source(example, numbers)
            names = ", ".join(f"{part.name} ({part.text})" for part in parts) or "none"
            words = f"{what}, {example.perturbation}: parts found: {names}"
            caption = f"found, {example.perturbation}" + ("" if parts else ": nothing")
            pictures.append(Shown(f"parts-{kind}", source, words, caption, parts))
    return Card(
        model,
        clean.image_id,
        other.perturbation,
        clean.label or "",
        verdict,
        other.confidence,
        clean.confidence,
        pictures,
    )


def _answer(example: Example) -> str:
    """What the model answers, in words."""
    if example.prediction is not None:
        sure = "" if example.confidence is None else f" {100 * example.confidence:.0f} %"
        return f"{example.prediction}{sure} ({'right' if example.correct else 'wrong'})"
    if example.correct is None:
        return "not judged"
    return "every object found" if example.correct else "objects missed"
