r"""Make a part dataset from PACO-EGO4D: parts of 75 common objects on video frames of Ego4D.

    python datasets/prepare_paco_ego4d.py --annotations annotations --images ego4d/v1/paco_frames \
        --output $DETECTRON2_DATASETS/paco_ego4d

--annotations holds paco_ego4d_v1_{train,val,test}.json, --images the frames <video>_<number>.jpeg (see
datasets/README.md). One crop an object, labelled with the object's class and the masks of its own parts. Objects whose
box covers less than 1 % of their frame are left out, and videos are split 80/10/10: all frames of a video are in one
split.

    --labels box              boxes of parts in the place of masks
    --split official          PACO's own train, val and test, which part objects, not videos
    --labels-only             only the three JSON files: no frame is needed
"""

from __future__ import annotations

from partbox.data.preparation.paco_script import prepare_paco
from partbox.data.preparation.readers.paco_release import PACO_EGO4D


def main() -> int:
    """Prepare, and return the exit status."""
    return prepare_paco(PACO_EGO4D, __doc__ or "", images_help="folder of the frames")


if __name__ == "__main__":
    raise SystemExit(main())
