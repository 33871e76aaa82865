"""Data sets that are known by name: their sizes, their files on disk, and their licences.

`layout` is what torchvision's class of the set (for tiny_imagenet, the set's own archive) creates below the
root. Licences are given in a word; the web page of a set has the terms.
"""

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class DatasetInfo:
    """A data set known by name.

    Attributes:
        title: Name in messages.
        images: Number of images.
        classes: Number of classes.
        test_images: How many of the images are the set's own test split; None if it has none.
        licence: Licence in a word.
        layout: Files and folders below the root, in words.
        markers: Files and folders below the root that all exist if the set is there.
        objects: How the set marks objects ("trimaps", "masks", "boxes"), or "".
        archives: Archives that the set is unpacked from, if they are in the root.
        host: Host from which torchvision downloads the set, or "" if it cannot.
        bytes: Size of the download.
        verified: Whether torchvision compares checksums of the download.
        get: Where users find a set that cannot be downloaded.
    """

    title: str
    images: int
    classes: int
    test_images: int | None
    licence: str
    layout: str
    markers: tuple[str, ...]
    objects: str = ""
    archives: tuple[str, ...] = ()
    host: str = ""
    bytes: int = 0
    verified: bool = True
    get: str = ""


RESEARCH = "non-commercial research"
UNSTATED = "none stated"

DATASETS: dict[str, DatasetInfo] = {
    "cifar10": DatasetInfo(
        "CIFAR-10", 60_000, 10, 10_000, UNSTATED, "cifar-10-batches-py/", ("cifar-10-batches-py",),
        archives=("cifar-10-python.tar.gz",), host="www.cs.toronto.edu", bytes=170_498_071,
    ),
    "cifar100": DatasetInfo(
        "CIFAR-100", 60_000, 100, 10_000, UNSTATED, "cifar-100-python/", ("cifar-100-python",),
        archives=("cifar-100-python.tar.gz",), host="www.cs.toronto.edu", bytes=169_001_437,
    ),
    "flowers102": DatasetInfo(
        "Oxford 102 Flowers", 8_189, 102, 6_149, UNSTATED, "flowers-102/{jpg/, imagelabels.mat, setid.mat}",
        ("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        archives=("flowers-102/102flowers.tgz", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        host="www.robots.ox.ac.uk", bytes=345_000_000,
    ),
    "oxford_pets": DatasetInfo(
        "Oxford-IIIT Pets", 7_349, 37, 3_669, "CC BY-SA 4.0",
        "oxford-iiit-pet/{images/, annotations/{trainval.txt, test.txt, trimaps/}}",
        ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"), objects="trimaps",
        archives=("oxford-iiit-pet/images.tar.gz", "oxford-iiit-pet/annotations.tar.gz"),
        host="www.robots.ox.ac.uk", bytes=811_000_000,
    ),
    "stanford_cars": DatasetInfo(
        "Stanford Cars", 16_185, 196, 8_041, RESEARCH,
        "stanford_cars/{cars_train/*.jpg, cars_test/*.jpg, devkit/{cars_meta.mat, cars_train_annos.mat}, "
        "cars_test_annos_withlabels.mat}",
        ("stanford_cars/devkit", "stanford_cars/cars_train", "stanford_cars/cars_test",
         "stanford_cars/cars_test_annos_withlabels.mat"),
        get="its own address is gone, so torchvision cannot fetch it; github.com/pytorch/vision/issues/7545 names "
        "copies of the pictures, of the devkit and of cars_test_annos_withlabels.mat",
    ),
    "fgvc_aircraft": DatasetInfo(
        "FGVC-Aircraft (variants)", 10_000, 100, 3_333, RESEARCH, "fgvc-aircraft-2013b/data/{images/, variants.txt, "
        "images_variant_trainval.txt, images_variant_test.txt}", ("fgvc-aircraft-2013b",),
        archives=("fgvc-aircraft-2013b.tar.gz",), host="www.robots.ox.ac.uk", bytes=2_750_000_000, verified=False,
    ),
    "dtd": DatasetInfo(
        "Describable Textures (first partition)", 5_640, 47, 1_880, "research",
        "dtd/dtd/{images/, labels/{train1.txt, val1.txt, test1.txt}}", ("dtd/dtd",),
        archives=("dtd/dtd-r1.0.1.tar.gz",), host="www.robots.ox.ac.uk", bytes=625_000_000,
    ),
    "food101": DatasetInfo(
        "Food-101", 101_000, 101, 25_250, "scientific fair use", "food-101/{images/, meta/{train.json, test.json}}",
        ("food-101/images", "food-101/meta"), archives=("food-101.tar.gz",), host="data.vision.ee.ethz.ch",
        bytes=5_000_000_000,
    ),
    "eurosat": DatasetInfo(
        "EuroSAT (RGB)", 27_000, 10, None, "MIT", "eurosat/2750/<class>/*.jpg", ("eurosat/2750",),
        archives=("eurosat/EuroSAT.zip",), host="huggingface.co", bytes=94_000_000,
    ),
    "stl10": DatasetInfo(
        "STL-10 (labelled)", 13_000, 10, 8_000, "as ImageNet", "stl10_binary/", ("stl10_binary",),
        archives=("stl10_binary.tar.gz",), host="ai.stanford.edu", bytes=2_640_000_000,
    ),
    "svhn": DatasetInfo(
        "Street View House Numbers (cropped)", 99_289, 10, 26_032, "non-commercial",
        "train_32x32.mat, test_32x32.mat", ("train_32x32.mat", "test_32x32.mat"),
        archives=("train_32x32.mat", "test_32x32.mat"), host="ufldl.stanford.edu", bytes=246_000_000,
    ),
    "imagenet": DatasetInfo(
        "ImageNet (ILSVRC 2012)", 1_331_167, 1_000, 50_000, RESEARCH + ", on request",
        "{train/<id>/*.JPEG, val/<id>/*.JPEG} and meta.bin or ILSVRC2012_devkit_t12.tar.gz; or the three archives as "
        "they are given out, ILSVRC2012_{img_train.tar, img_val.tar, devkit_t12.tar.gz}, which prepare unpacks",
        ("train", "val"),
        archives=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"),
        get="available from image-net.org after registration",
    ),
    "imagenet100": DatasetInfo(
        "ImageNet-100, or other classes of prepare.class_list", 131_689, 100, 5_000, RESEARCH + ", on request",
        "as imagenet", ("train", "val"),
        archives=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"),
        get="available from image-net.org after registration",
    ),
    "voc2012": DatasetInfo(
        "PASCAL VOC 2012 (segmentation)", 2_913, 20, 1_449, "Flickr's terms",
        "VOCdevkit/VOC2012/{JPEGImages/, Annotations/, SegmentationClass/, ImageSets/Segmentation/{train,val}.txt}",
        ("VOCdevkit/VOC2012",), objects="masks", archives=("VOCtrainval_11-May-2012.tar",),
        host="thor.robots.ox.ac.uk", bytes=2_000_000_000,
    ),
    "tiny_imagenet": DatasetInfo(
        "Tiny ImageNet", 110_000, 200, 10_000, "as ImageNet",
        "tiny-imagenet-200/{wnids.txt, words.txt, train/<id>/{images/, <id>_boxes.txt}, val/{images/, "
        "val_annotations.txt}}", ("tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/train", "tiny-imagenet-200/val"),
        objects="boxes", get="cs231n.stanford.edu/tiny-imagenet-200.zip, which prepare.root may also name as it is",
    ),
}  # fmt: skip
"""Data sets by the name in prepare.dataset."""
