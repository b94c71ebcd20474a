//! Which patches of an image are compared while Patch SVDD learns.

use candle_core::{Device, Result, Tensor};
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal};

use crate::rng::Rng;

/// The directions that a second patch may lie in: rows and columns from the first.
pub(super) const DIRECTIONS: [[i64; 2]; 8] = [[-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]];

/// The top row and left column of a patch.
pub(super) type Corner = [usize; 2];

/// The patches of one size of a batch, a pair of each kind for each image.
#[derive(Debug, Clone)]
pub(super) struct Draws {
    pub side: usize,
    /// Two patches, and the direction from the first to the second.
    pub apart: Vec<([Corner; 2], u32)>,
    /// What is added to the first and the second of these, (N, C, side, side).
    pub noise: [Tensor; 2],
    /// Two patches at nearly one place.
    pub near: Vec<[Corner; 2]>,
}

impl Draws {
    /// Of `images` images (channels, rows, columns). A second patch that lies apart is three to four quarters of a side away along each
    /// axis of its direction. One that is near is a 32nd away at most. Both are moved into the image where they leave it. Noise has the deviation `noise`, once a channel and once a pixel.
    pub fn new(
        images: usize,
        [channels, height, width]: [usize; 3],
        side: usize,
        noise: f64,
        (rng, device): (&mut Rng, &Device),
    ) -> Result<Self> {
        let (mut apart, mut near) = (Vec::with_capacity(images), Vec::with_capacity(images));
        let room = [height - side, width - side];
        // 32 bits, so that all machines draw the same.
        let below = |end: usize, rng: &mut Rng| rng.random_range(0..end as u32) as usize;
        let corner = |rng: &mut Rng| room.map(|room| below(room + 1, rng));
        let moved = |from: Corner, by: [i64; 2]| {
            [0, 1].map(|axis| (from[axis] as i64 + by[axis]).clamp(0, room[axis] as i64) as usize)
        };
        let mut added = [const { Vec::<f32>::new() }; 2];
        for _ in 0..images {
            let (first, direction) = (corner(rng), below(DIRECTIONS.len(), rng));
            let by = DIRECTIONS[direction].map(|along| along * (3 * side / 4 + below((side / 4).max(1), rng)) as i64);
            apart.push(([first, moved(first, by)], direction as u32));
            for values in &mut added {
                for _ in 0..channels {
                    let mut normal = || (noise * Distribution::<f64>::sample(&StandardNormal, rng)) as f32;
                    let shift = normal();
                    values.extend((0..side * side).map(|_| shift + normal()));
                }
            }
            let first = corner(rng);
            let most = (side / 32).max(1) as i64;
            let mut by = [0; 2];
            while by == [0; 2] {
                by = by.map(|_| below(2 * most as usize + 1, rng) as i64 - most);
            }
            near.push([first, moved(first, by)]);
        }
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, (images, channels, side, side), device);
        let [first, second] = added;
        Ok(Self { side, apart, noise: [tensor(first)?, tensor(second)?], near })
    }

    /// The patches of (N, C, H, W) images: the first and the second that are apart, then those that are near, (4N, C, side, side).
    pub fn cut(&self, images: &Tensor) -> Result<Tensor> {
        let patch = |image: usize, [top, left]: Corner| {
            images.narrow(0, image, 1)?.narrow(2, top, self.side)?.narrow(3, left, self.side)
        };
        let all = |corners: &mut dyn Iterator<Item = Corner>| {
            Tensor::cat(&corners.enumerate().map(|(image, at)| patch(image, at)).collect::<Result<Vec<_>>>()?, 0)
        };
        let [first, second] = [0, 1].map(|at| all(&mut self.apart.iter().map(|(pair, _)| pair[at])));
        let noisy = |patches: Tensor, noise: &Tensor| patches + noise.to_dtype(images.dtype())?;
        let [one, other] = [0, 1].map(|at| all(&mut self.near.iter().map(|pair| pair[at])));
        Tensor::cat(&[noisy(first?, &self.noise[0])?, noisy(second?, &self.noise[1])?, one?, other?], 0)
    }

    /// (N), the directions.
    pub fn directions(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_iter(self.apart.iter().map(|(_, direction)| *direction), device)
    }
}
