"""Training batches of detectors: detectron2's samplers, from any batch on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from torch.utils.data import Sampler

from partbox.data.loader import Key, SampleLoader, build_loader
from partbox.processes import rank, world_size
from partbox.suggestions import one_of

from .checks import ConfigError
from .detectors import is_segmenter, mapper_of

# Not detectron2's Weighted... samplers, which weigh several datasets and look at all of their images;
# nor its RandomSubsetTrainingSampler, for which it has no key.
SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")


class SampledBatches(Sampler[list[Key]]):
    """Endless batches of what a sampler gives, from batch ``start`` on.

    The sampler always runs from its beginning, so that the batches are those of a run that was never interrupted,
    images that wait for others of their group included; the images of the batches before ``start`` are not read.

    Args:
        indices: of records, endless, the same at each iteration over them.
        batch_size: images of a batch.
        groups: of each record: a batch holds images of one group only. None = any.
        start: number of the first batch.
        share: (i, n): yield the i-th of n equal pieces of each batch, as one of n processes.
    """

    def __init__(
        self,
        indices: Iterable[int],
        batch_size: int,
        *,
        groups: Sequence[int] | None = None,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.indices, self.batch_size, self.groups, self.start = indices, batch_size, groups, start
        images = batch_size // share[1]
        self.mine = slice(share[0] * images, (share[0] + 1) * images)

    def __iter__(self) -> Iterator[list[Key]]:
        waiting: defaultdict[int, list[Key]] = defaultdict(list)
        number = 0
        for position, index in enumerate(self.indices):
            group = 0 if self.groups is None else self.groups[index]
            waiting[group].append((index, position))
            if len(waiting[group]) == self.batch_size:
                batch = waiting.pop(group)
                if number >= self.start:
                    yield batch[self.mine]
                number += 1


class _Whole:
    """What a sampler of detectron2 gives to all processes together; by itself it gives each its own part."""

    def __init__(self, sampler: TrainingSampler | RepeatFactorTrainingSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler._infinite_indices()


def build_detector_batches(cfg: CfgNode, records: list[dict[str, Any]], start: int = 0) -> SampleLoader:
    """Endless training batches from batch ``start`` on, as the keys of ``DATALOADER`` say; each process gets its share.

    Raises:
        ConfigError: a sampler that is none of ``SAMPLERS``, or a setting that does not fit it or the dataset.
    """
    seed = max(cfg.SEED, 0)
    batches = SampledBatches(
        _Whole(_sampler(cfg, records, seed)),
        cfg.SOLVER.IMS_PER_BATCH,
        groups=_aspect_groups(cfg, records),
        start=start,
        share=(rank(), world_size()),
    )
    return build_loader(records, mapper_of(cfg, is_train=True), batches, seed=seed, workers=cfg.DATALOADER.NUM_WORKERS)


def check_sampler(cfg: CfgNode) -> None:
    """Raises ConfigError where ``DATALOADER.SAMPLER_TRAIN`` is none of ``SAMPLERS``."""
    if cfg.DATALOADER.SAMPLER_TRAIN not in SAMPLERS:
        raise ConfigError(one_of("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN, SAMPLERS))


def _sampler(
    cfg: CfgNode, records: Sequence[dict[str, Any]], seed: int
) -> TrainingSampler | RepeatFactorTrainingSampler:
    check_sampler(cfg)
    node, name = cfg.DATALOADER, cfg.DATASETS.TRAIN[0]
    if not records:
        raise ConfigError(f"DATASETS.TRAIN: no image of {name} has an object to train on")
    if node.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        if not all("annotations" in record for record in records):
            raise ConfigError(f"DATALOADER.SAMPLER_TRAIN {node.SAMPLER_TRAIN} counts objects, and {name} has none")
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, node.REPEAT_THRESHOLD, sqrt=node.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    return TrainingSampler(len(records), seed=seed)


def _aspect_groups(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> list[int] | None:
    """detectron2's two groups, wide images and the others; None for segmenters, whose images are all of one size."""
    if not cfg.DATALOADER.ASPECT_RATIO_GROUPING or is_segmenter(cfg):
        return None
    if not all("width" in record and "height" in record for record in records):
        raise ConfigError(
            f"DATALOADER.ASPECT_RATIO_GROUPING needs the sizes of images, and {cfg.DATASETS.TRAIN[0]} has records "
            "without: set it False"
        )
    return [int(record["width"] <= record["height"]) for record in records]
