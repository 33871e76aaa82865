"""Sections of params.yaml about the data: where images come from, and which roles they have."""

from typing import Literal

from pydantic import Field

from pipeline.config.schema.section import PathText, Section, TableText


class BaseParams(Section):
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of all random draws: splits, configurations, weights, batches."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks run; auto: CUDA if there is.")


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
        description="A folder or archive (.tar, .tar.xz, .tar.gz, .tgz, .zip): for image_folder one that holds "
        "<class>/*, or train/<class>/* and test/<class>/*; for a known set one that holds it in its own layout, null: "
        "the folder datasets. A relative path starts at the checkout.",
    )
    download: bool = Field(
        False, description="Whether a known set that is not there may be fetched, into prepare.root."
    )
    class_list: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="A file that names the classes of a known set to take, one a line, by id or name; null: all of "
        "them, and for imagenet100 those of its first publication.",
    )
    image_size: int = Field(12, ge=4, le=1024, description="Side of the prepared square images, in pixels.")
    bit_depth: int | None = Field(
        None,
        ge=1,
        le=32,
        description="Bits of grey pictures of more than 8: 12 where 4095 is white, though each value takes 16; null: "
        "what the files say, alike in all of them.",
    )
    skip_broken: bool = Field(
        False, description="Leave out files that are no pictures, instead of refusing them; they are named either way."
    )
    array_limit_gb: float = Field(
        16.0,
        ge=0,
        le=1_000_000,
        description="A set of pictures whose arrays would take more is kept as encoded squares (JPEG), which are "
        "decoded as they are read; in GB of 10^9 bytes.",
    )


class SplitParams(Section):
    val_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the non-test images that the search scores on.")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of all images kept for `evaluate` alone, for sets without a test split."
    )
    train_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the non-test images, in train and in val, that is used at all; smaller shares lie in "
        "larger ones.",
    )
    group_by: TableText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="For images that belong together and must be in one role: a regular expression whose first group "
        "names it, searched in each file's path; or a .csv (path,group) or .json file (docs/own-images.md).",
    )
    duplicates: Literal["report", "move", "refuse", "ignore"] = Field(
        "report",
        description="What becomes of copies of an image in several roles: reported; or moved into train, all of them; "
        "or refused; or not looked for.",
    )
    duplicate_distance: int = Field(
        4,
        ge=0,
        le=8,
        description="Bits, of 64, in which the perceptual hashes of near copies may differ; 0: exact copies alone, as "
        "always below 32 pixels.",
    )
