"""Make a part dataset from PACO-LVIS: parts of 75 common objects on photographs of COCO.

    python datasets/prepare_paco_lvis.py --annotations annotations --images coco --output $DETECTRON2_DATASETS/paco_lvis

--annotations holds paco_lvis_v1_{train,val,test}.json, --images the folders train2017/ and val2017/ of COCO (see
datasets/README.md). One crop an object, labelled with the object's class and the masks of its own parts. Objects whose
box covers less than 1 % of their photograph are left out, and photographs are split 80/10/10, as in the papers.

    --labels box              boxes of parts in the place of masks
    --split official          PACO's own train, val and test
    --labels-only             only the three JSON files: no photograph is needed
"""

from __future__ import annotations

from partbox.data.preparation.paco_script import prepare_paco
from partbox.data.preparation.readers.paco_release import PACO_LVIS


def main() -> int:
    """Prepare, and return the exit status."""
    return prepare_paco(PACO_LVIS, __doc__ or "", images_help="folder of train2017/ and val2017/")


if __name__ == "__main__":
    raise SystemExit(main())
