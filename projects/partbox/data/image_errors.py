"""What can be wrong with one image of a dataset while a loader reads it."""

from __future__ import annotations


class ImageError(RuntimeError):
    """An image of a dataset that a mapper cannot read, or that is not what its record says.

    Attributes:
        file_name: of the image.
        image_id: of its record.
        reason: what the mapper said.
    """

    def __init__(self, file_name: str, image_id: int | str, reason: str) -> None:
        super().__init__(file_name, image_id, reason)  # in args, so that the error survives pickling
        self.file_name, self.image_id, self.reason = file_name, image_id, reason

    def __str__(self) -> str:
        return f"image {self.image_id} of the dataset, {self.file_name}, cannot be used: {self.reason}"


class WorkerDied(ImageError):
    """A process that reads images was killed, or crashed, at or after this image.

    Attributes:
        file_name: of the image that it was reading, or had read last.
        image_id: of its record.
        reason: how the process ended, and what it was doing.
    """

    def __str__(self) -> str:
        return (
            f"a process that reads images {self.reason} image {self.image_id} of the dataset, {self.file_name}: either "
            "the machine ran out of memory (set a smaller DATALOADER.NUM_WORKERS), or this file crashes what reads it "
            "(DATALOADER.NUM_WORKERS 0 shows where; replace the file or leave it out)"
        )
