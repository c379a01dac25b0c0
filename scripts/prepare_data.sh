#!/usr/bin/env bash
# Part datasets from the downloads that you have; for those that you have not, what is missing and where to get it.
#
#     bash scripts/prepare_data.sh DOWNLOADS                            every data set whose download is there
#     bash scripts/prepare_data.sh DOWNLOADS paco_lvis pascal_part      these; a missing one is a failure
#     bash scripts/prepare_data.sh DOWNLOADS partimagenet -- --classes 158 --labels box
#
# DOWNLOADS: the folder in which the commands of datasets/README.md were run; links will do:
#     PartImageNet/                         COCO files and photographs       -> partimagenet
#     PartImageNetPP/ ILSVRC2012/train/     labels, ImageNet's training set  -> partimagenet_pp
#     pascal_part_source/                   Annotations_Part, VOCdevkit      -> pascal_part
#     cityscapes/                           gtFinePanopticParts, leftImg8bit -> cityscapes_part
#     annotations/ coco/                    PACO's files, photographs        -> paco_lvis
#     annotations/ ego4d/v1/paco_frames/    PACO's files, frames             -> paco_ego4d
#     pascal_part_animals/                  images/, trainval.json           -> pascal_part_animals
# Options after -- go to the script of each data set (see its --help). An interrupted run continues where it was.
# DETECTRON2_DATASETS: where the data sets go (datasets_root). PARTBOX_VENV: the environment's folder (.venv).
set -euo pipefail

if [[ $# -lt 1 || "$1" == "-h" || "$1" == "--help" ]]; then
    sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit $(($# < 1 ? 2 : 0))
fi

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
[[ -d "$1" ]] || { echo "error: $1 is not a folder; --help tells what it should hold" >&2; exit 2; }
IN="$(realpath -- "$1")"
shift
NAMES=()
while [[ $# -gt 0 && "$1" != "--" ]]; do
    NAMES+=("$1")
    shift
done
[[ $# -gt 0 ]] && shift
OUT="$(realpath -m -- "${DETECTRON2_DATASETS:-$REPO/datasets_root}")"
VENV="$(realpath -m -- "${PARTBOX_VENV:-$REPO/.venv}")"
cd "$REPO"

KNOWN=(partimagenet partimagenet_pp pascal_part cityscapes_part paco_lvis paco_ego4d pascal_part_animals)
for name in ${NAMES[@]+"${NAMES[@]}"}; do
    [[ " ${KNOWN[*]} " == *" $name "* ]] || { echo "error: unknown data set $name; known: ${KNOWN[*]}" >&2; exit 2; }
done

LABELS_ONLY=0
for option in "$@"; do
    [[ "$option" != "--labels-only" ]] || LABELS_ONLY=1
done

# What each needs below DOWNLOADS: labels, photographs.
label_paths() {
    case "$1" in
        partimagenet) echo "PartImageNet" ;;
        partimagenet_pp) echo "PartImageNetPP/json" ;;
        pascal_part) echo "pascal_part_source/Annotations_Part" ;;
        cityscapes_part) echo "cityscapes/gtFinePanopticParts/train cityscapes/gtFinePanopticParts/val" ;;
        paco_lvis | paco_ego4d) echo annotations/"$1"_v1_{train,val,test}.json ;;
        pascal_part_animals) echo "pascal_part_animals/trainval.json" ;;
    esac
}
photograph_paths() {
    case "$1" in
        partimagenet_pp) echo "ILSVRC2012/train" ;;
        pascal_part) echo "pascal_part_source/VOCdevkit/VOC2010/JPEGImages" ;;
        cityscapes_part) echo "cityscapes/leftImg8bit/train cityscapes/leftImg8bit/val" ;;
        paco_lvis) echo "coco/train2017 coco/val2017" ;;
        paco_ego4d) echo "ego4d/v1/paco_frames" ;;
        pascal_part_animals) echo "pascal_part_animals/images" ;;
    esac
}
inputs() {
    case "$1" in
        partimagenet) INPUTS=(--input "$IN/PartImageNet") ;;
        partimagenet_pp) INPUTS=(--input "$IN/PartImageNetPP" --images "$IN/ILSVRC2012/train") ;;
        pascal_part) INPUTS=(--input "$IN/pascal_part_source") ;;
        cityscapes_part) INPUTS=(--input "$IN/cityscapes") ;;
        paco_lvis) INPUTS=(--annotations "$IN/annotations" --images "$IN/coco") ;;
        paco_ego4d) INPUTS=(--annotations "$IN/annotations" --images "$IN/ego4d/v1/paco_frames") ;;
        pascal_part_animals) INPUTS=(--input "$IN/pascal_part_animals") ;;
    esac
}

READY=() MISSING=()
for name in "${KNOWN[@]}"; do
    [[ ${#NAMES[@]} -eq 0 || " ${NAMES[*]-} " == *" $name "* ]] || continue
    lacking=()
    wanted="$(label_paths "$name")"
    ((LABELS_ONLY)) || wanted+=" $(photograph_paths "$name")"
    for path in $wanted; do
        [[ -e "$IN/$path" ]] || lacking+=("$path")
    done
    if [[ ${#lacking[@]} -eq 0 ]]; then
        READY+=("$name")
    else
        MISSING+=("$name: $IN lacks ${lacking[*]}")
    fi
done

STATUS=0 MADE=()
if [[ ${#READY[@]} -gt 0 ]]; then
    bash scripts/setup_env.sh "$VENV"
    for name in "${READY[@]}"; do
        echo "== $name -> $OUT/$name"
        inputs "$name"
        if "$VENV/bin/python" "datasets/prepare_$name.py" "${INPUTS[@]}" --output "$OUT/$name" "$@"; then
            MADE+=("$name")
        else
            echo "FAILED: $name" >&2
            STATUS=1
        fi
    done
fi

echo
for name in ${MADE[@]+"${MADE[@]}"}; do
    echo "ready    $name: $OUT/$name"
done
for line in ${MISSING[@]+"${MISSING[@]}"}; do
    echo "missing  $line"
done
if [[ ${#MISSING[@]} -gt 0 ]]; then
    echo "datasets/README.md tells for each where to get it, under which terms, and how much disk it takes."
    [[ ${#NAMES[@]} -eq 0 && ${#READY[@]} -gt 0 ]] || STATUS=1
fi
exit "$STATUS"
