"""Every partbox configuration key: meaning, unit, default. Keys of detectron2 itself keep detectron2's meaning."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.projects.deeplab import add_deeplab_config


def add_partbox_config(cfg: CfgNode) -> None:
    """Add the keys of partbox to detectron2's default configuration, in place."""
    add_deeplab_config(cfg)
    _add_input(cfg)
    _add_model(cfg)
    _add_solver(cfg)
    _add_adversary(cfg)
    _add_robust_eval(cfg)
    _add_tracking(cfg)


def _add_input(cfg: CfgNode) -> None:
    # Root folder of the datasets; the example data is generated below it on first use.
    cfg.DATASETS.ROOT = ""  # "" = $DETECTRON2_DATASETS, else datasets_root
    # A registered name, or the path of a part-dataset file whose images lie in the folder "images" beside it.
    cfg.DATASETS.TRAIN = ("example_train",)
    # Datasets for validation during training (best checkpoint); TEST is never looked at before the end.
    cfg.DATASETS.VALIDATION = ("example_val",)
    cfg.DATASETS.TEST = ("example_test",)

    # Which labels training may use (the dataset itself stays as it is): shares of the labelled images with masks, and
    # with boxes alone; the others count as not labelled. Smaller budgets are part of larger ones. -1, -1 = all labels.
    cfg.DATASETS.LABEL_BUDGET = CfgNode()
    cfg.DATASETS.LABEL_BUDGET.MASK_SHARE = -1.0
    cfg.DATASETS.LABEL_BUDGET.BOX_SHARE = -1.0
    cfg.DATASETS.LABEL_BUDGET.SEED = 0  # of the choice of images, apart from SEED

    # What predicted part labels count in training (tools/pseudo_label.py writes them): WEIGHT multiplies what an image
    # with such labels adds to the part term. 1 = as much as an annotated image, 0 = as if it were not labelled.
    cfg.DATASETS.PSEUDO_LABELS = CfgNode()
    cfg.DATASETS.PSEUDO_LABELS.WEIGHT = 1.0
    cfg.DATASETS.PSEUDO_LABELS.TIMES_SCORE = False  # multiply by the mean score of the image's parts, too

    # Images are RGB everywhere in partbox; the mapper divides by nothing, the model by 255.
    cfg.INPUT.FORMAT = "RGB"
    # (height, width) in pixels of what the network sees.
    cfg.INPUT.SIZE = (224, 224)
    # Training crops a random share of the image's area, of a random aspect ratio (width / height), and resizes it.
    cfg.INPUT.CROP_AREA = (0.08, 1.0)
    cfg.INPUT.CROP_ASPECT = (0.75, 4 / 3)
    # Largest relative change of brightness, contrast and saturation in training; 0 = none.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Detectors: how training images are resized and cropped. "shortest_edge" (detectron2's: MIN_SIZE_TRAIN and CROP),
    # "large_scale_jitter" (scaled by MIN_SCALE to MAX_SCALE, then cut or padded to IMAGE_SIZE pixels a side), or "detr"
    # (half of the images cropped before MIN_SIZE_TRAIN).
    cfg.INPUT.AUGMENTATION = "shortest_edge"
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    # How image files are checked before work starts: "decode" (finds every broken file), "header", "none".
    cfg.INPUT.VERIFY_IMAGES = "decode"


def _add_model(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "PartClassifier"
    # Parameters that training starts anew although MODEL.WEIGHTS is given, such as the class head of weights for other
    # classes: patterns of names ("*class_embed*"). Everything else has to fit. Evaluation loads everything.
    cfg.MODEL.WEIGHTS_EXCEPT = []
    cfg.MODEL.DEVICE = "auto"  # "auto" = a GPU where there is one, else the CPU
    # Mean and standard deviation of RGB in 0..255; the model divides them by 255.
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"

    part = cfg.MODEL.PART = CfgNode()
    # Names, filled in from the training dataset when empty, written to the run's config.yaml, and compared with the
    # dataset whenever the model meets one.
    part.CLASS_NAMES = []
    part.PART_NAMES = []  # of the parts, "class:part"
    part.PART_TO_CLASS = []  # class index of each part

    part.BACKBONE = CfgNode()
    part.BACKBONE.TIMM_NAME = "resnet18"  # name of a network of timm
    # "" = random; "timm" = timm's pretrained weights (needs its model hub or cache); a file; or a file of an
    # installed Python package, "pkg://package/path/in/package".
    part.BACKBONE.WEIGHTS = ""
    # Stride of the last feature map for a segmenter: 8, 16 or 32 pixels.
    part.BACKBONE.OUTPUT_STRIDE = 16

    _add_extractor(part)
    _add_head(part)

    # Weight c of the part term: loss = (1 - c) classification + c parts. Without extractor, or with the oracle, c is 0.
    part.LOSS_WEIGHT = 0.5
    # The part term of masks: PIXEL_LOSS_WEIGHT x cross-entropy of the pixels + KEYPOINT_LOSS_WEIGHT x (squared error of
    # the parts' centroids + cross-entropy of the classes' areas, segmenter only).
    part.PIXEL_LOSS_WEIGHT = 1.0
    part.KEYPOINT_LOSS_WEIGHT = 0.0
    # segmenter, auxiliary: pixels weigh (1 - probability of their label)^gamma; 0 = all alike
    part.FOCAL_GAMMA = 0.0
    # segmenter, auxiliary: where masks are compared with labels, "image" (masks enlarged to it) or "evidence" (labels
    # reduced)
    part.LOSS_RESOLUTION = "image"
    part.LABEL_SMOOTHING = 0.0  # of the classification term
    # BatchNorm during training: "train" (batch statistics, running ones updated; of several processes each has those of
    # its own images), "synchronised" (the same of the whole batch, everywhere in the model), or "frozen" (the
    # backbone's running statistics used and kept; scale and shift still learn).
    part.BATCH_NORM = "train"
    part.BATCH_NORM_MOMENTUM = 0.1  # share of the new batch in the running statistics
    # Memory layout: channels last makes convolutions on CPUs up to 1.6 times faster; with torch 2.14 it crashes some
    # networks there (repvgg_a0), so it is off unless a configuration asks for it.
    part.CHANNELS_LAST = False


def _add_extractor(part: CfgNode) -> None:
    extractor = part.EXTRACTOR = CfgNode()
    # "none" (plain classifier), "segmenter" (DeepLabV3+), "oracle" (the true parts: an upper bound),
    # "dino" (boxes; MODEL.DINO), "maskdino" (boxes and masks; MODEL.MaskDINO and MODEL.SEM_SEG_HEAD), or "auxiliary"
    # (masks at strides 8, 16 and 32 that only training looks at, for the head "linear"; MODEL.SEM_SEG_HEAD.CONVS_DIM).
    extractor.NAME = "segmenter"
    # What a mask channel stands for: "part", "object" (all parts of a class together), "group" (parts of the same name
    # in different classes together), "fg" (all parts together). A detector's objects stay single parts, named alike.
    extractor.LEVEL = "part"
    # Level "group": [] = by name (dog:head and cat:head are head), or every part in one of your own groups, such as
    # [{name: limb, parts: [leg, dog:paw]}, ...]; "leg" means the legs of all classes.
    extractor.GROUPS = []
    # Oracle: the extractor sees the clean image whatever an attack does to the one that the head sees. An upper bound.
    extractor.FROM_CLEAN_IMAGE = False
    # What the part term learns from: "mask" (images with masks only), "box" (boxes alone, filled), or "auto" (masks
    # where an image has them, else its boxes).
    extractor.SUPERVISION = "auto"


def _add_head(part: CfgNode) -> None:
    head = part.HEAD = CfgNode()
    # "linear" (plain classifier), "part_box", "part_pooling", "two_head" (on the backbone), "two_head_decoder",
    # "part_to_class", "box_sequence" (detectors), "masked_image" (masks through a network of their own).
    head.NAME = "part_box"
    head.HIDDEN = 50  # units of the hidden layer of part_box, part_pooling, box_sequence and two_head_decoder
    # What part_box and part_to_class read: "masks", "detections", or "auto" (masks where the extractor gives them).
    head.EVIDENCE = "auto"
    # box_sequence: "pool" (maximum and mean over the queries) or "sort" (the QUERIES with the largest scores in order)
    head.QUERY_ORDER = "pool"
    head.QUERIES = 50
    head.QUERY_SCORES = "softmax"  # box_sequence: "softmax" over the parts, or "sigmoid" of each
    head.KEEP_BACKGROUND = True  # part_pooling, masked_image: whether the background's mask reaches the head
    head.POOL_SIZE = 4  # part_pooling: cells a side
    head.POOL_NORM = False  # part_pooling: BatchNorm and ReLU on the pooled masks
    head.SCORE = True  # part_box: whether each part's score is a feature beside its box
    head.NORMALIZED_BOXES = True  # part_box: boxes in [-1, 1] (else in pixels of the network's input)
    head.PART_CONV = False  # part_box: mix features with Conv1d(features, 10, 1), shared over the parts
    head.LEARNED = False  # part_to_class: learn the part-to-class matrix instead of the labels' fixed one
    # part_to_class: weight of a pixel in the mean, "uniform" or "foreground" (sigmoid of parts minus background).
    head.PIXEL_WEIGHT = "uniform"
    # masked_image: what its network sees: "masks" (alone), "concat" (colours and masks as channels), or "multiply" (the
    # image once for each mask, multiplied by it; as many times the cost).
    head.COMBINE = "masks"
    head.NETWORK = ""  # masked_image: timm network, "" = that of the backbone
    head.NETWORK_WEIGHTS = ""  # masked_image with "multiply": as MODEL.PART.BACKBONE.WEIGHTS
    # masked_image: the most probable mask of each pixel alone, 0 or 1. Attacks get an estimate of the gradient then,
    # and evaluations say so.
    head.HARD_MASKS = False
    # masked_image: the class does not teach the extractor. In training only: attacks keep the gradient.
    head.DETACH_MASKS = False
    head.SUM_BY_CLASS = False  # masked_image: add up the masks of a class's parts
    head.MASK_TEMPERATURE = 1.0  # masked_image: divides the mask logits


def _add_solver(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "SGD"  # "SGD" or "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of the backbone, relative to BASE_LR
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # weight decay of embeddings (learned queries, labels of denoising queries)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False  # validate and keep an exponential moving average of the weights
    cfg.SOLVER.EMA.DECAY = 0.999  # grows to this value during the first iterations
    cfg.TEST.EVAL_PERIOD = 500  # iterations between validations; 0 = only at the end


def _add_adversary(cfg: CfgNode) -> None:
    adversary = cfg.ADVERSARY = CfgNode()  # the adversary during training
    # "clean", "pgd", "trades", "mart", "mat" (clean and adversarial cross-entropy mixed), "fgsm-rs" (one step, default
    # 1.25 eps, from a random start), "n-fgsm" (one step of eps from noise of 2 eps) or "free" (each batch REPLAYS
    # times, moved by the update's own gradient). The two single-step ones want STEPS 1.
    adversary.OBJECTIVE = "clean"
    adversary.NORM = "linf"  # "linf" or "l2"
    adversary.EPS = "8/255"  # radius in [0, 1] pixel space; a number or a fraction
    adversary.STEPS = 10  # gradient steps of the attack
    adversary.STEP_SIZE = ""  # in pixel space; "" = 1.25 * eps / steps
    adversary.RANDOM_START = True  # start the attack at a random image within EPS
    # What the attack aims at: "class", "parts" (away from the labelled parts), "both", or "two-stage" (parts, then
    # class). Images without part labels are attacked on their class.
    adversary.GOAL = "class"
    adversary.GOAL_PART_WEIGHT = 0.5  # of "both": weight of the part term in what the attack maximises
    adversary.REGION = (
        "all"  # pixels that the attack may change: "all", "object" (where parts are labelled), "background"
    )
    adversary.BETA = 6.0  # trades and mart: weight of the divergence; mat: share of the adversarial images, in [0, 1]
    adversary.REPLAYS = 4  # free: iterations in a row on the same batch
    adversary.AWP_GAMMA = 0.0  # move each layer's weights by this share of its norm against the update (AWP); 0 = off
    adversary.CLEAN_ITERS = 0  # iterations trained on clean images first
    adversary.EPS_WARMUP_ITERS = 0  # iterations after the clean ones in which eps grows from 0 to EPS
    # Single-step training: iterations between two looks whether PGD still finds the model robust; 0 = never.
    adversary.PROBE_PERIOD = 100
    adversary.VALIDATION_STEPS = 10  # PGD steps of the validation attack
    adversary.VALIDATION_IMAGES = 500  # at most so many images of the validation dataset; 0 = all


def _add_robust_eval(cfg: CfgNode) -> None:
    evaluation = cfg.ROBUST_EVAL = CfgNode()
    # Each perturbation is a mapping with a "name"; its other keys are that perturbation's settings:
    # {name: clean} or {name: pgd, norm: linf, eps: 8/255, steps: 20, step_size: 1/255, restarts: 1}; also
    # apgd (steps, loss: ce | dlr | dlr-targeted, restarts, targets, average), fab (steps, targeted, targets, restarts),
    # square (queries, restarts), autoattack (version: standard | plus | rand, order: published | cheapest),
    # parts (goal), detector-pgd (goal), segmentation-pgd (loss: ce | segpgd | cospgd), noise,
    # {name: corruption, kind: fog, severity: 3}, and {name: corruptions} for the 15 benchmark kinds at 5 severities.
    # Attacks on classifiers also take precision: bfloat16, compiled: true and fold_batch_norm: true, which search with
    # a faster form of the network and confirm every verdict with the network itself.
    evaluation.PERTURBATIONS = [{"name": "clean"}, {"name": "pgd", "norm": "linf", "eps": "8/255", "steps": 20}]
    evaluation.NUM_IMAGES = 0  # at most so many images, drawn with SEED; 0 = all
    evaluation.BATCH_SIZE = 64  # images that a process perturbs and looks at together
    evaluation.SEED = 0  # of every random draw in evaluation
    # Images on which is checked whether the attacks worked; 0 = no check. A failed check marks the result unreliable.
    evaluation.SELF_CHECK_IMAGES = 32
    # Images to keep for pictures, spread over the classes, the same under each perturbation; 0 = none. At most 600
    # pictures in all, so fewer images where there are more than 25 perturbations.
    evaluation.EXAMPLES = 24
    evaluation.EXAMPLE_SCORE = 0.3  # boxes of parts or objects with at least this score are kept for pictures
    # Run folder of another model of the same kind and classes: images attacked on it must not be stronger. "" = none.
    evaluation.SURROGATE = ""


def _add_tracking(cfg: CfgNode) -> None:
    tracking = cfg.TRACKING = CfgNode()
    # Each validation draws so many images as its attack leaves them, with the parts that the model finds, for
    # TensorBoard and wandb: the first ones of the validation dataset. Each evaluation under attack draws so many of the
    # images that it keeps (ROBUST_EVAL.EXAMPLES), of detectors and segmenters too. 0 = none, and nothing is drawn.
    tracking.IMAGES = 4
    # Weights & Biases. Nothing of it is imported, written or sent unless ENABLED. What it gets: scalars, pictures, and
    # this configuration. The key of the account is never part of a configuration ("wandb login", or WANDB_API_KEY).
    wandb = tracking.WANDB = CfgNode()
    wandb.ENABLED = False
    # "offline" (files in OUTPUT_DIR/wandb alone, for "wandb sync"), "online" (sends), or "disabled" (not ENABLED).
    # WANDB_MODE=offline or disabled in the environment wins over more than that; it never makes a run send.
    wandb.MODE = "offline"
    wandb.PROJECT = "partbox"
    wandb.ENTITY = ""  # user or team that owns the project; "" = the account's own
    wandb.NAME = ""  # of the run; "" = that of the folder OUTPUT_DIR
