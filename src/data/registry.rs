//! The data sets that oodkit knows by name.
//!
//! A known set needs only its name in an experiment file. Everything here is a fact about the complete, original set;
//! where its files come from in detail is in `data/README.md`.

use std::path::Path;

use super::{Format, Split};

/// A data set that oodkit knows by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The name in experiment files.
    pub name: &'static str,
    /// The name in prose.
    pub title: &'static str,
    /// How its files are laid out.
    pub format: Format,
    /// Where its files are, under the data root.
    pub folder: &'static str,
    /// Channels, rows, columns; `None` where pictures come in many sizes.
    pub shape: Option<[usize; 3]>,
    /// Mean of each channel, of pixels in 0..1; empty where the set serves as OOD only.
    pub mean: &'static [f32],
    /// Standard deviation of each channel; empty where `mean` is.
    pub std: &'static [f32],
    /// Where `mean` and `std` come from.
    pub statistics: &'static str,
    /// Train images of the complete set, if there is one complete set.
    pub train: Option<usize>,
    /// Test images of the complete set; for OOD sets, of the files that the literature scores.
    pub test: Option<usize>,
    /// How many classes the labels have; 0 where the set is read without labels.
    pub classes: usize,
    /// The label of the first class in the files: 1 for EMNIST letters. Labels in memory start at 0.
    pub first_label: u32,
    /// The licence or terms, as far as stated by its authors.
    pub licence: &'static str,
    /// Where it comes from, in one sentence.
    pub origin: &'static str,
    /// What to do to have it.
    pub how_to_get: &'static str,
}

impl Known {
    /// [`Known::how_to_get`], with the data root in the stead of `data`.
    pub fn how_to_get_into(&self, root: &Path) -> String {
        if root == Path::new("data") {
            return self.how_to_get.to_owned();
        }
        let root = root.display();
        match self.how_to_get.starts_with("make ") {
            true => format!("OODKIT_DATA={root} {}", self.how_to_get),
            false => self.how_to_get.replace("into data/", &format!("into {root}/")),
        }
    }

    /// Images of a split of the complete set.
    pub fn size(&self, split: Split) -> Option<usize> {
        match split {
            Split::Train => self.train,
            Split::Test => self.test,
            Split::Val => None,
        }
    }
}

/// The known set of this name.
pub fn known(name: &str) -> Option<&'static Known> {
    all().iter().find(|known| known.name == name)
}

/// All known sets: those that train networks first, then OOD sets, then those in the repository.
pub fn all() -> &'static [Known] {
    &ALL
}

/// energy_ood's constants for both CIFARs: 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7 of 255.
const CIFAR_MEAN: &[f32] = &[125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0];
const CIFAR_STD: &[f32] = &[63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0];
const CIFAR_STATISTICS: &str = "energy_ood, CIFAR/train.py, for both CIFARs";

/// How to get what is in this repository.
const EMBEDDED: &str = "it is part of the repository, in data/embedded: run there, or say where with --data";

/// What sets of pictures that are only ever scored have in common.
const PICTURES: Known = Known {
    name: "",
    title: "",
    format: Format::Folder,
    folder: "",
    shape: None,
    mean: &[],
    std: &[],
    statistics: "none: an OOD set is normalised as the ID set is",
    train: None,
    test: None,
    classes: 0,
    first_label: 0,
    licence: "",
    origin: "",
    how_to_get: "",
};

static ALL: [Known; 19] = [
    Known {
        name: "mnist",
        title: "MNIST",
        format: Format::Idx,
        folder: "mnist",
        shape: Some([1, 28, 28]),
        mean: &[0.1307],
        std: &[0.3081],
        statistics: "measured on the train split; PyTorch's MNIST example uses the same",
        train: Some(60_000),
        test: Some(10_000),
        classes: 10,
        first_label: 0,
        licence: "none stated by its authors; often given as CC BY-SA 3.0",
        origin: "Handwritten digits of NIST, by LeCun, Cortes and Burges (1998).",
        how_to_get: "make data set=mnist",
    },
    Known {
        name: "fashion_mnist",
        title: "Fashion-MNIST",
        format: Format::Idx,
        folder: "fashion_mnist",
        shape: Some([1, 28, 28]),
        mean: &[0.2860],
        std: &[0.3530],
        statistics: "measured on the train split",
        train: Some(60_000),
        test: Some(10_000),
        classes: 10,
        first_label: 0,
        licence: "MIT",
        origin: "Zalando's article images, by Xiao, Rasul and Vollgraf (2017).",
        how_to_get: "make data set=fashion_mnist",
    },
    Known {
        name: "cifar10",
        title: "CIFAR-10",
        format: Format::Cifar10,
        folder: "cifar10",
        shape: Some([3, 32, 32]),
        mean: CIFAR_MEAN,
        std: CIFAR_STD,
        statistics: CIFAR_STATISTICS,
        train: Some(50_000),
        test: Some(10_000),
        classes: 10,
        first_label: 0,
        licence: "none stated; free for research",
        origin: "Labelled part of 80 Million Tiny Images, by Krizhevsky (2009).",
        how_to_get: "make data set=cifar10",
    },
    Known {
        name: "cifar100",
        title: "CIFAR-100",
        format: Format::Cifar100,
        folder: "cifar100",
        shape: Some([3, 32, 32]),
        mean: CIFAR_MEAN,
        std: CIFAR_STD,
        statistics: CIFAR_STATISTICS,
        train: Some(50_000),
        test: Some(10_000),
        classes: 100,
        first_label: 0,
        licence: "none stated; free for research",
        origin: "Labelled part of 80 Million Tiny Images in 100 fine classes, by Krizhevsky (2009).",
        how_to_get: "make data set=cifar100",
    },
    Known {
        name: "svhn",
        title: "SVHN",
        format: Format::Svhn,
        folder: "svhn",
        shape: Some([3, 32, 32]),
        mean: &[0.4377, 0.4438, 0.4728],
        std: &[0.1980, 0.2010, 0.1970],
        statistics: "of the train split, as commonly published (0.43768, 0.44377, 0.47280; 0.19803, 0.20102, 0.19704)",
        train: Some(73_257),
        test: Some(26_032),
        classes: 10,
        first_label: 0,
        licence: "non-commercial use",
        origin: "House numbers in Google Street View, cropped digits, by Netzer et al. (2011).",
        how_to_get: "make data set=svhn",
    },
    Known {
        name: "fer2013",
        title: "FER2013",
        format: Format::Fer2013,
        folder: "fer2013",
        shape: Some([1, 48, 48]),
        mean: &[0.5077],
        std: &[0.2550],
        statistics: "of the Training rows, as commonly published; 18,000 of them, as JPEG, measure 0.5082 and 0.2554",
        train: Some(28_709),
        test: Some(3_589),
        classes: 7,
        first_label: 0,
        licence: "research use (Kaggle competition data)",
        origin: "Facial expressions from image search, by Goodfellow et al. (2013), Kaggle's representation challenge.",
        how_to_get: "download fer2013.csv from Kaggle (an account is needed) into data/fer2013",
    },
    Known {
        name: "textures",
        title: "Textures (DTD)",
        folder: "textures",
        test: Some(5_640),
        licence: "research use",
        origin: "Describable Textures Dataset, all 47 categories, by Cimpoi et al. (2014).",
        how_to_get: "unpack dtd-r1.0.1.tar.gz of the DTD home page and put its images/ into data/textures",
        ..PICTURES
    },
    Known {
        name: "places365",
        title: "Places365",
        folder: "places365",
        licence: "CC BY for the list; the pictures belong to their photographers",
        origin: "Scenes, by Zhou et al. (2017); each OOD paper scores its own subset, so no complete size is known here.",
        how_to_get: "put the pictures of the subset that you compare with (energy_ood: test_subset) into data/places365",
        ..PICTURES
    },
    Known {
        name: "lsun_crop",
        title: "LSUN-C",
        folder: "lsun_crop",
        shape: Some([3, 32, 32]),
        test: Some(10_000),
        licence: "research use",
        origin: "Random 32×32 crops of the LSUN test images (Yu et al. 2015), made for ODIN by Liang et al. (2018).",
        how_to_get: "download LSUN.tar.gz linked from the README of ODIN into data/lsun_crop and unpack it there",
        ..PICTURES
    },
    Known {
        name: "lsun_resize",
        title: "LSUN-R",
        folder: "lsun_resize",
        shape: Some([3, 32, 32]),
        test: Some(10_000),
        licence: "research use",
        origin: "The LSUN test images (Yu et al. 2015) shrunk to 32×32, made for ODIN by Liang et al. (2018).",
        how_to_get: "download LSUN_resize.tar.gz linked from the README of ODIN into data/lsun_resize and unpack it there",
        ..PICTURES
    },
    Known {
        name: "isun",
        title: "iSUN",
        folder: "isun",
        shape: Some([3, 32, 32]),
        test: Some(8_925),
        licence: "research use",
        origin: "Pictures of iSUN (Xu et al. 2015) shrunk to 32×32, made for ODIN by Liang et al. (2018).",
        how_to_get: "download iSUN.tar.gz linked from the README of ODIN into data/isun and unpack it there",
        ..PICTURES
    },
    Known {
        name: "tiny_images_300k",
        title: "300K Random Images",
        folder: "tiny_images_300k",
        shape: Some([3, 32, 32]),
        train: Some(300_000),
        licence: "none stated; 80 Million Tiny Images was withdrawn by its authors",
        origin: "Debiased part of 80 Million Tiny Images, by Hendrycks et al. (2019), as auxiliary outliers.",
        how_to_get: "download 300K_random_images.npy linked from the README of outlier-exposure and save its pictures as \
                     PNG into data/tiny_images_300k/train",
        ..PICTURES
    },
    Known {
        name: "tiny_imagenet",
        title: "Tiny ImageNet",
        folder: "tiny_imagenet",
        test: Some(10_000),
        licence: "research use (ImageNet's terms)",
        origin: "200 classes of ImageNet at 64×64, of Stanford's CS231n course.",
        how_to_get: "unpack tiny-imagenet-200.zip of CS231n and put the pictures of val/ into data/tiny_imagenet/test",
        ..PICTURES
    },
    Known {
        name: "emnist_letters",
        title: "EMNIST letters",
        format: Format::Idx,
        folder: "emnist_letters",
        shape: Some([1, 28, 28]),
        train: Some(124_800),
        test: Some(20_800),
        classes: 26,
        first_label: 1,
        licence: "free for research (NIST)",
        origin: "Handwritten letters of NIST's Special Database 19, by Cohen et al. (2017).",
        how_to_get: "unpack gzip.zip of NIST's EMNIST page and put emnist-letters-*.gz into data/emnist_letters",
        ..PICTURES
    },
    Known {
        name: "notmnist",
        title: "notMNIST",
        format: Format::Idx,
        folder: "notmnist",
        shape: Some([1, 28, 28]),
        test: Some(18_724),
        classes: 10,
        licence: "none stated",
        origin: "Letters A to J in many typefaces, the hand-cleaned small set, by Bulatov (2011).",
        how_to_get: "convert notMNIST_small to MNIST's files and put t10k-{images-idx3,labels-idx1}-ubyte.gz into \
                     data/notmnist",
        ..PICTURES
    },
    Known {
        name: "eurosat",
        title: "EuroSAT",
        folder: "eurosat",
        test: Some(27_000),
        licence: "MIT",
        origin: "Sentinel-2 land-cover tiles, RGB, by Helber et al. (2019).",
        how_to_get: "download EuroSAT_RGB.zip of EuroSAT's home page into data/eurosat and unpack it there",
        ..PICTURES
    },
    Known {
        name: "fashion_mnist_small",
        title: "Fashion-MNIST (small)",
        format: Format::Idx,
        folder: "embedded/fashion_mnist_small",
        shape: Some([1, 28, 28]),
        mean: &[0.2860],
        std: &[0.3530],
        statistics: "those of the complete Fashion-MNIST",
        train: Some(60_000),
        test: Some(10_000),
        classes: 10,
        first_label: 0,
        licence: "MIT",
        origin: "The first 800 train and 200 test images of each class of Fashion-MNIST, in this repository.",
        how_to_get: EMBEDDED,
    },
    Known {
        name: "digits",
        title: "UCI digits",
        format: Format::Idx,
        folder: "embedded/digits",
        shape: Some([1, 8, 8]),
        test: Some(1_797),
        classes: 10,
        licence: "CC BY 4.0",
        origin: "Optical Recognition of Handwritten Digits, test set, by Alpaydin and Kaynak (1998), in this repository.",
        how_to_get: EMBEDDED,
        ..PICTURES
    },
    Known {
        name: "textures_small",
        title: "Textures (small)",
        format: Format::Idx,
        folder: "embedded/textures_small",
        shape: Some([1, 28, 28]),
        test: Some(972),
        classes: 3,
        licence: "CC0",
        origin: "28×28 tiles of scikit-image's brick, grass and gravel photographs, in this repository.",
        how_to_get: EMBEDDED,
        ..PICTURES
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_set_is_described() {
        let mut names = std::collections::BTreeSet::new();
        let mut folders = std::collections::BTreeSet::new();
        for known in all() {
            assert!(names.insert(known.name) && folders.insert(known.folder), "{} twice", known.name);
            for text in [known.title, known.folder, known.statistics, known.licence, known.origin, known.how_to_get] {
                assert!(!text.is_empty(), "{}", known.name);
            }
            assert!(known.origin.ends_with('.'), "{}: a sentence", known.name);
            assert_eq!(known.mean.len(), known.std.len(), "{}", known.name);
            if let (Some([channels, ..]), false) = (known.shape, known.mean.is_empty()) {
                assert_eq!(known.mean.len(), channels, "{}", known.name);
            }
            assert!(
                known.mean.iter().all(|m| (0.0..=1.0).contains(m)) && known.std.iter().all(|s| (0.0..=1.0).contains(s))
            );
            assert_eq!(super::known(known.name), Some(known));
        }
        assert_eq!(known("nothing"), None);
    }
}
