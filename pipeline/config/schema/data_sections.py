"""Sections of params.yaml about the data: the source of the images, and their roles."""

from typing import Literal

from pydantic import Field

from pipeline.config.schema.section import PathText, Section, TableText


class BaseParams(Section):
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of all random draws: splits, configurations, weights, batches."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device of the networks; auto: CUDA if there is a GPU, else the CPU."
    )


class PrepareParams(Section):
    dataset: Literal[
        "digits",
        "image_folder",
        "cifar10",
        "cifar100",
        "flowers102",
        "oxford_pets",
        "stanford_cars",
        "fgvc_aircraft",
        "dtd",
        "food101",
        "eurosat",
        "stl10",
        "svhn",
        "imagenet",
        "imagenet100",
        "voc2012",
        "tiny_imagenet",
    ] = Field(
        "digits",
        description="Source of the images: the digits that come with scikit-learn, your own pictures (image_folder), "
        "or a known set; `sar-search datasets` lists them.",
    )
    root: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="A folder or archive (.tar, .tar.xz, .tar.gz, .tgz, .zip). For image_folder it contains "
        "<class>/*, or train/<class>/* and test/<class>/*. For a known set it contains the set in its "
        "own layout; null: the folder datasets. A relative path starts at the checkout.",
    )
    download: bool = Field(False, description="Whether a known set that is missing may be downloaded, to prepare.root.")
    class_list: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="A file with the classes of a known set that are taken, one a line, by id or name; null: all of "
        "them, and for imagenet100 those of its first publication.",
    )
    image_size: int = Field(12, ge=4, le=1024, description="Side of the prepared square images, in pixels.")
    bit_depth: int | None = Field(
        None,
        ge=1,
        le=32,
        description="Number of bits of greyscale images with more than 8 bits: 12 if 4095 is white, though each "
        "value takes 16 bits; null: as the files say, which must agree.",
    )
    skip_broken: bool = Field(
        False,
        description="Whether files that are no images are left out instead of refused; they are reported either way.",
    )
    array_limit_gb: float = Field(
        16.0,
        ge=0,
        le=1_000_000,
        description="Limit on the size of a set's arrays, in GB of 10^9 bytes; a larger set is stored as square "
        "JPEGs, which are decoded when they are read.",
    )


class SplitParams(Section):
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the non-test images on which the search scores trials."
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of all images that only `evaluate` uses, for sets without a test split."
    )
    train_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the non-test images, in train and in val, that is used; the images of a smaller share "
        "are also in every larger one.",
    )
    group_by: TableText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Groups of images that must have the same role: a regular expression whose first group is the "
        "name, searched in each file's path; or a .csv (path,group) or .json file "
        "(docs/own-images/groups-and-copies.md).",
    )
    duplicates: Literal["report", "move", "refuse", "ignore"] = Field(
        "report",
        description="Treatment of copies of an image in several roles; report: they are reported; move: all of them "
        "are moved to train; refuse: they are an error; ignore: they are not looked for.",
    )
    duplicate_distance: int = Field(
        4,
        ge=0,
        le=8,
        description="Number of bits, of 64, in which the perceptual hashes of near copies may differ; 0: exact "
        "copies alone, as always below 32 pixels.",
    )
