"""From a configuration and weights to what is exported."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from partbox.data.catalog import register_dataset_file
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import read_checkpoint
from partbox.engine.checks import FIXED_SIZE
from partbox.engine.detectors import build_detector, class_count, is_segmenter
from partbox.engine.setup import load_dataset

from .errors import ExportError
from .graphs import ClassifierGraph, Graph, OneByOneGraph, SegmenterGraph, TransformerGraph

TRANSFORMERS = ("DINO", "MaskDINO")


def build_graph(cfg: CfgNode, weights: str, *, size: tuple[int, int] | None = None, parts: bool = True) -> Graph:
    """The model of a configuration, ready to be exported.

    Args:
        cfg: complete but for the names of classes and parts, which a dataset can fill in.
        weights: checkpoint of the whole model; "" for random weights.
        size: (height, width) of the images, of detectors only: others have ``INPUT.SIZE``.
        parts: whether what a part classifier finds is exported beside its logits.

    Raises:
        ExportError: a model or a size that cannot be exported.
        ConfigError, CheckpointError, PartDatasetError: a model that cannot be built.
    """
    complete = cfg.clone()
    complete.defrost()
    complete.MODEL.DEVICE = "cpu"  # where the file is compared with it
    complete.MODEL.PART.CHANNELS_LAST = False  # an order of memory, which a file does not have
    complete.MODEL.DEFORMABLE_ATTENTION = "torch"  # whether the compiled kernels are installed or not
    if complete.MODEL.META_ARCHITECTURE == "PartClassifier":
        fixed = _image_size(complete, size)
        if not complete.MODEL.PART.CLASS_NAMES:
            load_dataset(complete, complete.DATASETS.TEST or complete.DATASETS.TRAIN, "DATASETS.TEST")
        return ClassifierGraph(build_classifier(complete, weights), fixed, parts=parts).eval()
    return _detector_graph(complete, weights, size, parts=parts)


def _detector_graph(cfg: CfgNode, weights: str, size: tuple[int, int] | None, *, parts: bool) -> Graph:
    """A model of detectron2; one that is refused in the end is not asked for names and a size before."""
    bgr = cfg.INPUT.FORMAT == "BGR"
    if cfg.MODEL.META_ARCHITECTURE not in (*FIXED_SIZE, *TRANSFORMERS):
        return OneByOneGraph(build_detector(cfg, weights), cfg.INPUT.MIN_SIZE_TEST, bgr=bgr).eval()
    fixed = _image_size(cfg, size)
    if not parts:
        raise ExportError(f"--logits-only: a {cfg.MODEL.META_ARCHITECTURE} has no logits of a class")
    names = _part_names(cfg, weights)
    family = SegmenterGraph if is_segmenter(cfg) else TransformerGraph
    return family(build_detector(cfg, weights), fixed, names, bgr=bgr).eval()


def _image_size(cfg: CfgNode, size: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of the images.

    Raises:
        ExportError: a size is given and the model has one, or the other way round.
    """
    kind = cfg.MODEL.META_ARCHITECTURE
    if kind in FIXED_SIZE:
        own = int(cfg.INPUT.SIZE[0]), int(cfg.INPUT.SIZE[1])
        if size is not None and size != own:
            raise ExportError(
                f"--size {size[0]} {size[1]}: a {kind} is tested at INPUT.SIZE, which is {own[0]} x {own[1]}"
            )
        return own
    if size is None:
        raise ExportError(
            f"a {kind} is tested at many sizes (INPUT.MIN_SIZE_TEST {cfg.INPUT.MIN_SIZE_TEST}, MAX_SIZE_TEST "
            f"{cfg.INPUT.MAX_SIZE_TEST}), and a file has one: name it with --size HEIGHT WIDTH"
        )
    return size


def _part_names(cfg: CfgNode, weights: str) -> Sequence[str]:
    """Names of a detector's or segmenter's parts: those beside the weights, else those of the test's dataset.

    Raises:
        ExportError: nobody knows them, or there are more or fewer than the model has.
    """
    stored = read_checkpoint(weights).get("class_names") if weights else None
    names = list(stored) if stored is not None else _names_of_dataset(cfg)
    wanted = class_count(cfg) - is_segmenter(cfg)
    if len(names) != wanted:
        raise ExportError(f"the model has {wanted} parts (without background) and {len(names)} names: {names[:3]} ...")
    return names


def _names_of_dataset(cfg: CfgNode) -> list[str]:
    """Those that the metadata of the test's dataset has; of some datasets only reading their files fills these."""
    name = next(iter(cfg.DATASETS.TEST), "")
    register_dataset_file(name)
    if name in DatasetCatalog:
        if not MetadataCatalog.get(name).get("thing_classes"):
            try:
                DatasetCatalog.get(name)
            except FileNotFoundError as error:
                raise ExportError(f"{name}, which has the names of the parts, cannot be read: {error}") from error
        return list(MetadataCatalog.get(name).get("thing_classes", []))
    raise ExportError(
        "the names of the parts are neither beside the weights (class_names) nor is DATASETS.TEST a registered dataset "
        "that has them: name one"
    )
