"""From parameters to what they name: image source, split, pretrained weights."""
