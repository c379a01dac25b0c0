"""From configuration to extractor and head."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from partbox.suggestions import unknown

from .backbones import TimmBackbone
from .extractors import (
    AuxiliaryExtractor,
    DinoExtractor,
    Extractor,
    MaskDinoExtractor,
    OracleExtractor,
    SegmenterExtractor,
)
from .heads import (
    COMBINATIONS,
    BoxSequenceHead,
    DecoderHead,
    DecoderTwoHead,
    FeatureHead,
    Head,
    LinearHead,
    MaskedImageHead,
    MaskNetworkHead,
    MaskReader,
    PartBoxHead,
    PartPoolingHead,
    PartToClassHead,
    TwoHead,
)
from .levels import PartLevel, channels_to_class, part_level

Shapes = dict[str, ShapeSpec]


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
        raise ValueError(unknown(kind, name, table))


def level_of(cfg: CfgNode) -> PartLevel:
    """The part level of the configuration.

    Raises:
        ValueError: see :func:`partbox.modeling.levels.part_level`.
    """
    part = cfg.MODEL.PART
    return part_level(
        part.EXTRACTOR.LEVEL, part.CLASS_NAMES, part.PART_NAMES, part.PART_TO_CLASS, part.EXTRACTOR.GROUPS
    )


def build_extractor(cfg: CfgNode, shapes: Shapes) -> Extractor | None:
    """The part extractor of ``MODEL.PART.EXTRACTOR``, None for a plain classifier.

    Raises:
        ValueError: unknown name or part level, or a loss that this extractor does not have.
    """
    part = cfg.MODEL.PART
    _known("MODEL.PART.EXTRACTOR.NAME", part.EXTRACTOR.NAME, EXTRACTORS)
    level = level_of(cfg)  # refuses an unknown one
    build = EXTRACTORS[part.EXTRACTOR.NAME]
    if build is None:
        _check_part_terms(cfg, None)
        return None
    extractor = build(cfg, shapes, len(level.channels))
    _check_part_terms(cfg, extractor)
    return extractor


def _check_part_terms(cfg: CfgNode, extractor: Extractor | None) -> None:
    """Raises ValueError for settings of the part term that this extractor does not read."""
    part = cfg.MODEL.PART
    detector = extractor is not None and extractor.learns_objects
    if part.FOCAL_GAMMA and detector:
        raise ValueError(f"MODEL.PART.FOCAL_GAMMA is {part.FOCAL_GAMMA}: a detector has losses of its own, leave it 0")
    pixels, keypoints = part.PIXEL_LOSS_WEIGHT, part.KEYPOINT_LOSS_WEIGHT
    if pixels < 0 or keypoints < 0:
        raise ValueError("MODEL.PART.PIXEL_LOSS_WEIGHT and KEYPOINT_LOSS_WEIGHT must not be negative")
    if pixels != 1 and detector:
        raise ValueError("MODEL.PART.PIXEL_LOSS_WEIGHT is of masks; a detector has losses of its own, leave it 1")
    learns_masks = extractor is not None and extractor.gives_masks and not detector and not extractor.needs_part_maps
    if keypoints and not learns_masks:
        raise ValueError(
            "MODEL.PART.KEYPOINT_LOSS_WEIGHT teaches the masks of a segmenter: set MODEL.PART.EXTRACTOR.NAME segmenter"
        )
    if part.FOCAL_GAMMA and not pixels:
        raise ValueError(
            "MODEL.PART.FOCAL_GAMMA weighs the pixels' cross-entropy, and PIXEL_LOSS_WEIGHT is 0: leave it 0"
        )
    if extractor is not None and part.LOSS_WEIGHT > 0 and not pixels and not keypoints:
        raise ValueError("MODEL.PART.LOSS_WEIGHT weighs nothing: PIXEL_LOSS_WEIGHT and KEYPOINT_LOSS_WEIGHT are 0")


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


def _two_head_decoder(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    _channels("two_head_decoder", extractor)
    if extractor is None or not extractor.decoder_channels:
        raise ValueError("the head two_head_decoder reads a segmenter: MODEL.PART.EXTRACTOR.NAME must be segmenter")
    height, width = (-(-int(side) // extractor.decoder_stride) for side in cfg.INPUT.SIZE)
    return DecoderTwoHead(
        extractor.decoder_channels,
        (height, width),
        len(cfg.MODEL.PART.CLASS_NAMES),
        hidden=cfg.MODEL.PART.HEAD.HIDDEN,
    )


def _masked_image(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    channels, part = _channels("masked_image", extractor), cfg.MODEL.PART
    head, classes = part.HEAD, len(part.CLASS_NAMES)
    if extractor is None or not extractor.gives_masks or head.EVIDENCE == "detections":
        raise ValueError("the head masked_image reads masks: use a segmenter, maskdino or the oracle")
    _known("MODEL.PART.HEAD.COMBINE", head.COMBINE, dict.fromkeys(COMBINATIONS))
    if head.SUM_BY_CLASS and part.EXTRACTOR.LEVEL == "object":
        raise ValueError("MODEL.PART.HEAD.SUM_BY_CLASS adds up the parts of a class: part level object has none")
    owners = channels_to_class(level_of(cfg), part.PART_TO_CLASS, classes) if head.SUM_BY_CLASS else None
    reader = MaskReader(
        channels,
        keep_background=head.KEEP_BACKGROUND,
        hard=head.HARD_MASKS,
        detach=head.DETACH_MASKS,
        temperature=head.MASK_TEMPERATURE,
        to_class=owners,
    )
    planes = {"masks": reader.channels, "concat": 3 + reader.channels, "multiply": 3}[head.COMBINE]
    if head.NETWORK_WEIGHTS and head.COMBINE != "multiply":
        raise ValueError(
            f"MODEL.PART.HEAD.NETWORK_WEIGHTS are for images, and with COMBINE {head.COMBINE} the network sees masks: "
            'leave it "", or use COMBINE multiply'
        )
    network = TimmBackbone(
        head.NETWORK or part.BACKBONE.TIMM_NAME,
        pretrained=head.NETWORK_WEIGHTS == "timm",
        pooled=True,
        weights="" if head.NETWORK_WEIGHTS == "timm" else head.NETWORK_WEIGHTS,
        planes=planes,
    )
    if head.COMBINE == "masks":
        return MaskNetworkHead(reader, network, classes)
    return MaskedImageHead(reader, network, classes, combine=head.COMBINE)


def _part_to_class(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    _channels("part_to_class", extractor)
    part = cfg.MODEL.PART
    from_detections = _from_detections(cfg, "part_to_class", extractor)
    if from_detections and part.HEAD.PIXEL_WEIGHT != "uniform":
        raise ValueError("MODEL.PART.HEAD.PIXEL_WEIGHT weights the pixels of masks, and this head reads detections")
    return PartToClassHead(
        channels_to_class(level_of(cfg), part.PART_TO_CLASS, len(part.CLASS_NAMES), shared=part.HEAD.LEARNED),
        learned=part.HEAD.LEARNED,
        pixel_weight=part.HEAD.PIXEL_WEIGHT,
        from_detections=from_detections,
    )


HEADS: dict[str, Callable[[CfgNode, Shapes, Extractor | None], Head]] = {
    "linear": _linear,
    "part_box": _part_box,
    "part_pooling": _part_pooling,
    "two_head": _two_head,
    "two_head_decoder": _two_head_decoder,
    "masked_image": _masked_image,
    "part_to_class": _part_to_class,
    "box_sequence": _box_sequence,
}


def build_head(cfg: CfgNode, shapes: Shapes, extractor: Extractor | None) -> Head:
    """The classification head of ``MODEL.PART.HEAD``.

    Raises:
        ValueError: unknown name, a head that cannot use this extractor's evidence, or settings that it does not read.
    """
    node = cfg.MODEL.PART.HEAD
    name = node.NAME
    _known("MODEL.PART.HEAD.NAME", name, HEADS)
    head = HEADS[name](cfg, shapes, extractor)
    changed = node.HARD_MASKS or node.DETACH_MASKS or node.SUM_BY_CLASS or node.MASK_TEMPERATURE != 1
    if name != "masked_image" and changed:
        raise ValueError(
            "MODEL.PART.HEAD.HARD_MASKS, DETACH_MASKS, SUM_BY_CLASS and MASK_TEMPERATURE belong to the head "
            f"masked_image; {name} does not read them"
        )
    if name != "masked_image" and (node.NETWORK or node.NETWORK_WEIGHTS):
        raise ValueError(f"MODEL.PART.HEAD.NETWORK and NETWORK_WEIGHTS belong to masked_image; {name} has no network")
    if cfg.MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE:
        _check_clean(extractor, head)
    return head


def _check_clean(extractor: Extractor | None, head: Head) -> None:
    """Raises ValueError where evidence from the clean image would not be that, or would not be used."""
    key = "MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE"
    if extractor is None or extractor.needs_part_maps:
        raise ValueError(f"{key} needs an extractor that looks at the image, such as segmenter")
    if isinstance(head, FeatureHead | DecoderHead):
        raise ValueError(f"{key} holds the masks fixed, and {type(head).__name__} does not read them")
