"""What a run shows of itself while it goes on, through detectron2's event storage: curves and pictures."""
