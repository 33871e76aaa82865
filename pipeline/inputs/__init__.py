"""Inputs of the stages, as the parameters name them: image source, split, pretrained weights, guides."""
