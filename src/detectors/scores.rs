//! What a detector answers of a set: a score for each image, and a map of each, if it can.

use crate::{Error, Result};

/// One finite number per image, and of some detectors a map per image; larger means more anomalous.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    image: Vec<f32>,
    maps: Option<Maps>,
}

impl Scores {
    /// Scores without maps.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the first image whose score is NaN or infinite: a metric of such scores would be meaningless.
    pub fn new(image: Vec<f32>) -> Result<Self> {
        match image.iter().enumerate().find(|(_, score)| !score.is_finite()) {
            Some((index, score)) => Err(Error::Failed(format!("the score of image {index} is {score}"))),
            None => Ok(Self { image, maps: None }),
        }
    }

    /// Scores with the maps that they were taken from.
    ///
    /// # Errors
    /// As [`Scores::new`], or unless there is a map for each score.
    pub fn with_maps(image: Vec<f32>, maps: Maps) -> Result<Self> {
        super::same("maps", maps.images(), image.len())?;
        Ok(Self { maps: Some(maps), ..Self::new(image)? })
    }

    /// With each image's score multiplied, and the maps as they are.
    ///
    /// # Errors
    /// As [`Scores::new`], or unless there is a factor for each score.
    pub(super) fn times(self, factors: &[f64]) -> Result<Self> {
        super::same("factors", factors.len(), self.image.len())?;
        let image = self.image.iter().zip(factors).map(|(score, factor)| (f64::from(*score) * factor) as f32);
        Ok(Self { maps: self.maps, ..Self::new(image.collect())? })
    }

    /// The images' scores in the order of the images.
    pub fn as_slice(&self) -> &[f32] {
        &self.image
    }

    /// The images' maps, in the same order, at the grid that they were computed on.
    pub fn maps(&self) -> Option<&Maps> {
        self.maps.as_ref()
    }
}

/// A map of each of some images, all on one grid; larger means more anomalous.
#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    grid: [usize; 2],
    values: Vec<f32>,
}

impl Maps {
    /// Of (N, rows, columns) finite values.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the first image with a value that is NaN or infinite, or if the values are not whole maps.
    pub fn new(grid: [usize; 2], values: Vec<f32>) -> Result<Self> {
        let size = grid[0] * grid[1];
        if size == 0 || !values.len().is_multiple_of(size) {
            let message = format!("{} values are no maps of {} × {}", values.len(), grid[0], grid[1]);
            return Err(Error::Failed(message));
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(Error::Failed(format!("the map of image {} holds {}", at / size, values[at]))),
            None => Ok(Self { grid, values }),
        }
    }

    /// Rows and columns.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// N.
    pub fn images(&self) -> usize {
        self.values.len() / (self.grid[0] * self.grid[1])
    }

    /// All values, image after image and row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// An image's map, row after row.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn map(&self, image: usize) -> &[f32] {
        let size = self.grid[0] * self.grid[1];
        &self.values[image * size..][..size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_whole_finite_and_one_for_each_score() {
        let maps = Maps::new([1, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((maps.images(), maps.map(1)), (2, &[3.0, 4.0][..]));
        assert!(Scores::with_maps(vec![2.0, 4.0], maps.clone()).is_ok());
        let error = |result: Result<Maps>| result.unwrap_err().to_string();
        assert_eq!(error(Maps::new([2, 2], vec![0.0; 6])), "6 values are no maps of 2 × 2");
        assert_eq!(error(Maps::new([0, 2], vec![])), "0 values are no maps of 0 × 2");
        assert_eq!(error(Maps::new([1, 2], vec![0.0, 0.0, 0.0, f32::NAN])), "the map of image 1 holds NaN");
        let error = Scores::with_maps(vec![2.0], maps).unwrap_err().to_string();
        assert_eq!(error, "2 maps where there must be 1");
    }
}
