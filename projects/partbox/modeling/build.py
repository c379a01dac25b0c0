"""From configuration to extractor and head."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from .extractors import (
    AuxiliaryExtractor,
    DinoExtractor,
    Extractor,
    MaskDinoExtractor,
    OracleExtractor,
    SegmenterExtractor,
)
from .heads import (
    BoxSequenceHead,
    EvidenceHead,
    FeatureHead,
    LinearHead,
    PartBoxHead,
    PartPoolingHead,
    PartToClassHead,
    TwoHead,
)
from .levels import channels_to_class, level_of_parts, num_channels

Shapes = dict[str, ShapeSpec]
Head = EvidenceHead | FeatureHead


def _segmenter(cfg: CfgNode, shapes: Shapes, channels: int) -> Extractor:
    return SegmenterExtractor.from_config(cfg, shapes, channels)


def _oracle(cfg: CfgNode, shapes: Shapes, channels: int) -> Extractor:
    return OracleExtractor(channels)


EXTRACTORS: dict[str, Callable[[CfgNode, Shapes, int], Extractor] | None] = {
    "none": None,
    "segmenter": _segmenter,
    "oracle": _oracle,
    "dino": DinoExtractor.from_config,
    "maskdino": MaskDinoExtractor.from_config,
    "auxiliary": AuxiliaryExtractor.from_config,
}


def _known(kind: str, name: str, table: dict) -> None:
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(table)}")


def build_extractor(cfg: CfgNode, shapes: Shapes) -> Extractor | None:
    """The part extractor of ``MODEL.PART.EXTRACTOR``, None for a plain classifier.

    Raises:
        ValueError: unknown name or part level.
    """
    part = cfg.MODEL.PART
    _known("MODEL.PART.EXTRACTOR.NAME", part.EXTRACTOR.NAME, EXTRACTORS)
    level_of_parts(part.EXTRACTOR.LEVEL, part.PART_TO_CLASS)  # refuses an unknown level
    build = EXTRACTORS[part.EXTRACTOR.NAME]
    if build is None:
        return None
    extractor = build(cfg, shapes, num_channels(part.EXTRACTOR.LEVEL, part.PART_TO_CLASS, len(part.CLASS_NAMES)))
    if part.FOCAL_GAMMA and extractor.learns_objects:
        raise ValueError(f"MODEL.PART.FOCAL_GAMMA is {part.FOCAL_GAMMA}: a detector has losses of its own, leave it 0")
    return extractor


def _linear(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    if extractor is not None and not extractor.training_only:
        raise ValueError(
            "the linear head is the plain classifier's: set MODEL.PART.EXTRACTOR.NAME none, or use two_head"
        )
    return LinearHead(shapes, len(cfg.MODEL.PART.CLASS_NAMES))


def _channels(name: str, extractor: Extractor | None) -> int:
    if extractor is None:
        raise ValueError(f"the head {name} needs part evidence: MODEL.PART.EXTRACTOR.NAME must not be none")
    if extractor.training_only:
        raise ValueError(f"the extractor runs in training alone, and the head {name} needs it: use the head linear")
    return extractor.num_channels


def _from_detections(cfg: CfgNode, name: str, extractor: Extractor | None) -> bool:
    """Whether the head reads a detector's queries rather than masks (``MODEL.PART.HEAD.EVIDENCE``).

    Raises:
        ValueError: unknown, or something that the extractor does not give.
    """
    _channels(name, extractor)
    assert extractor is not None
    kind = cfg.MODEL.PART.HEAD.EVIDENCE
    if kind == "auto":
        return not extractor.gives_masks
    given = {"masks": extractor.gives_masks, "detections": extractor.gives_detections}
    _known("MODEL.PART.HEAD.EVIDENCE", kind, {"auto": True, **given})
    if not given[kind]:
        raise ValueError(
            f"the head {name} is to read {kind} (MODEL.PART.HEAD.EVIDENCE), and the extractor "
            f"{cfg.MODEL.PART.EXTRACTOR.NAME} gives none"
        )
    return bool(kind == "detections")


def _part_box(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    head = cfg.MODEL.PART.HEAD
    return PartBoxHead(
        _channels("part_box", extractor),
        len(cfg.MODEL.PART.CLASS_NAMES),
        hidden=head.HIDDEN,
        score=head.SCORE,
        normalized=head.NORMALIZED_BOXES,
        part_conv=head.PART_CONV,
        from_detections=_from_detections(cfg, "part_box", extractor),
    )


def _box_sequence(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    channels, head = _channels("box_sequence", extractor), cfg.MODEL.PART.HEAD
    if extractor is None or not extractor.gives_detections:
        raise ValueError("the head box_sequence needs a detector: MODEL.PART.EXTRACTOR.NAME dino or maskdino")
    if head.EVIDENCE not in ("auto", "detections"):
        raise ValueError(f"the head box_sequence reads detections, MODEL.PART.HEAD.EVIDENCE is {head.EVIDENCE!r}")
    return BoxSequenceHead(
        channels,
        len(cfg.MODEL.PART.CLASS_NAMES),
        extractor.queries,
        order=head.QUERY_ORDER,
        scores=head.QUERY_SCORES,
        hidden=head.HIDDEN,
        kept=head.QUERIES,
    )


def _part_pooling(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    head = cfg.MODEL.PART.HEAD
    if _from_detections(cfg, "part_pooling", extractor):
        raise ValueError("the head part_pooling reads masks: use a segmenter or maskdino, or the head part_box")
    return PartPoolingHead(
        _channels("part_pooling", extractor),
        len(cfg.MODEL.PART.CLASS_NAMES),
        cells=head.POOL_SIZE,
        keep_background=head.KEEP_BACKGROUND,
        norm=head.POOL_NORM,
        hidden=head.HIDDEN,
    )


def _two_head(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    _channels("two_head", extractor)
    return TwoHead(shapes, len(cfg.MODEL.PART.CLASS_NAMES))


def _part_to_class(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    _channels("part_to_class", extractor)
    part = cfg.MODEL.PART
    from_detections = _from_detections(cfg, "part_to_class", extractor)
    if from_detections and part.HEAD.PIXEL_WEIGHT != "uniform":
        raise ValueError("MODEL.PART.HEAD.PIXEL_WEIGHT weights the pixels of masks, and this head reads detections")
    return PartToClassHead(
        channels_to_class(part.EXTRACTOR.LEVEL, part.PART_TO_CLASS, len(part.CLASS_NAMES)),
        learned=part.HEAD.LEARNED,
        pixel_weight=part.HEAD.PIXEL_WEIGHT,
        from_detections=from_detections,
    )


HEADS: dict[str, Callable[[CfgNode, Shapes, Extractor | None], Head]] = {
    "linear": _linear,
    "part_box": _part_box,
    "part_pooling": _part_pooling,
    "two_head": _two_head,
    "part_to_class": _part_to_class,
    "box_sequence": _box_sequence,
}


def build_head(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    """The classification head of ``MODEL.PART.HEAD``.

    Raises:
        ValueError: unknown name, or a head that cannot use this extractor's evidence.
    """
    name = cfg.MODEL.PART.HEAD.NAME
    _known("MODEL.PART.HEAD.NAME", name, HEADS)
    return HEADS[name](cfg, shapes, extractor)
